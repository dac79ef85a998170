"""Engines' own environments: `<home>/engines/<name>-<version>-<digest>/`, made once, never changed.

A folder counts only when its `.complete` marker holds the digest of its recipe; anything else in
its place is the rest of an attempt that was cut off, and is made anew (pip's cache keeps what was
downloaded). One installer at a time, by a file lock that pip inherits: if the installer is killed,
the next one waits until its orphaned pip is done too.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from inference.engines.base import Recipe, Step
from portal.lib.env import Environment

REQUIREMENTS = Path(__file__).resolve().parent.parent / "engines" / "requirements"
MARKER = ".complete"
READABLE = 0o022  # whatever ours is: engines are users of their own, who must read it
LOOK_AGAIN = 0.3  # seconds between looks at what pip has done


class InstallProblem(Exception):
    """The environment could not be made; the text says why, for people."""


class InstallProgress(msgspec.Struct, kw_only=True, frozen=True):
    """How far it is, kept in `<home>/engines/<name>.progress.json` while it goes on."""

    message: str
    done: int = 0
    total: int = 0  # packages
    downloaded_bytes: int = 0
    failed: bool = False
    pid: int = 0


Report = Callable[[InstallProgress], None]


def digest(recipe: Recipe) -> str:
    """What the environment is made of, in a word."""
    hasher = hashlib.sha256(f"{recipe.name} {recipe.version} {recipe.python}".encode())
    for step in recipe.steps:
        hasher.update((REQUIREMENTS / step.requirements).read_bytes())
    return hasher.hexdigest()[:12]


def folder(recipe: Recipe, home: Path) -> Path:
    return home / "engines" / f"{recipe.name}-{recipe.version}-{digest(recipe)}"


def installed_python(recipe: Recipe, home: Path) -> Path | None:
    """The interpreter of the finished environment, if there is one."""
    path = folder(recipe, home)
    try:
        whole = (path / MARKER).read_text().strip() == digest(recipe)
    except FileNotFoundError:
        return None
    return path / "bin" / "python" if whole else None


def read_progress(recipe: Recipe, home: Path) -> InstallProgress | None:
    """What the installation now under way, or the last failed one, said last."""
    try:
        return msgspec.json.decode(_progress_file(recipe, home).read_bytes(), type=InstallProgress)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def package_count(recipe: Recipe) -> int:
    return sum(len(_pins(step)) for step in recipe.steps)


def install(
    recipe: Recipe,
    home: Path,
    progress: Report = lambda _: None,
    *,
    indexes: Mapping[str, str],
    cancelled: threading.Event | None = None,
) -> Path:
    """Make the environment unless it is there; return its interpreter. Raises InstallProblem.

    `indexes` gives the address for each `Step.extra_index`; an empty one is not asked.
    """
    (home / "engines").mkdir(parents=True, exist_ok=True)
    with _locked(recipe, home, progress, cancelled) as lock:
        python = installed_python(recipe, home)
        if python is not None:
            return python
        return _Installation(recipe, home, progress, indexes, lock, cancelled).run()


def indexes(env: Environment) -> dict[str, str]:
    """The address for each `Step.extra_index`."""
    return {"torch_cpu": env.torch_cpu_index}


class _Installation:
    def __init__(
        self,
        recipe: Recipe,
        home: Path,
        report: Report,
        indexes: Mapping[str, str],
        lock: int,
        cancelled: threading.Event | None,
    ) -> None:
        self.recipe, self.home, self.report = recipe, home, report
        self.indexes, self.lock = indexes, lock
        self.cancelled = cancelled or threading.Event()
        self.path = folder(recipe, home)
        self.total = package_count(recipe)
        self.downloaded_before = 0  # bytes, of the steps already done
        self.collected = 0  # packages, of all steps

    def run(self) -> Path:
        try:
            return self._run()
        except InstallProblem as problem:
            self._say(str(problem), failed=True)
            raise
        except OSError as error:
            sentence = _os_sentence(error, self.path)
            self._say(sentence, failed=True)
            raise InstallProblem(sentence) from error

    def _run(self) -> Path:
        _check_space(self.recipe, self.home)
        python = _find_python(self.recipe)
        self._say("Preparing the engine's environment.")
        shutil.rmtree(self.path, ignore_errors=True)
        _make_venv(python, self.path)
        for step in self.recipe.steps:
            self._install(step)
        _prove(self.recipe, self.path)
        (self.path / MARKER).write_text(digest(self.recipe))
        _progress_file(self.recipe, self.home).unlink(missing_ok=True)
        return self.path / "bin" / "python"

    def _install(self, step: Step) -> None:
        index = self.indexes.get(step.extra_index, "") if step.extra_index else ""
        collected = self.collected
        try:
            # pip's own configuration first: a mirror or a folder of wheels may well have it all,
            # and an index that cannot be reached is waited for a long time.
            self._pip(step, [])
        except InstallProblem:
            if not index:
                raise
            self.collected = collected
            self._pip(step, ["--extra-index-url", index, "--retries", "2", "--timeout", "30"])

    def _pip(self, step: Step, more: list[str]) -> None:
        workspace = self.path / ".tmp"
        workspace.mkdir(exist_ok=True)
        log = _beside(self.recipe, self.home, ".log")
        with subprocess.Popen(
            [
                *_pip_command(self.path),
                *("install", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
                *("--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
                *more,
                *("-r", str(REQUIREMENTS / step.requirements)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_pip_environment(workspace),
            umask=READABLE,
            pass_fds=[self.lock],
            start_new_session=True,  # with --python, pip is two processes: both must end
        ) as pip:
            output: list[str] = []
            reader = threading.Thread(target=self._read, args=(pip, output, log), daemon=True)
            reader.start()
            try:
                self._watch(pip, output, workspace)
            finally:
                if pip.poll() is None:
                    os.killpg(pip.pid, signal.SIGTERM)
                reader.join()
        self.downloaded_before += _size(workspace)
        shutil.rmtree(workspace, ignore_errors=True)
        if pip.returncode:
            raise InstallProblem(_pip_sentence("".join(output[-200:]), self.home))

    def _read(self, pip: "subprocess.Popen[str]", output: list[str], log: Path) -> None:
        assert pip.stdout is not None  # noqa: S101  - asked for above
        with log.open("a") as file:
            for line in pip.stdout:
                output.append(line)
                file.write(line)
                if line.startswith(("Collecting ", "Processing ")):
                    self.collected += 1

    def _watch(self, pip: "subprocess.Popen[str]", output: list[str], workspace: Path) -> None:
        while pip.poll() is None:
            if self.cancelled.wait(LOOK_AGAIN):
                raise InstallProblem("The installation was stopped.")
            size = self.downloaded_before + _size(workspace)
            if any(line.startswith("Installing collected packages") for line in output[-3:]):
                unpacked = min(_unpacked(self.path), self.total)
                self._say("Unpacking the engine.", unpacked, size)
            else:
                self._say("Downloading the engine.", min(self.collected, self.total), size)

    def _say(self, message: str, done: int = 0, size: int = 0, *, failed: bool = False) -> None:
        said = InstallProgress(
            message=message,
            done=done,
            total=self.total,
            downloaded_bytes=size,
            failed=failed,
            pid=os.getpid(),
        )
        target = _progress_file(self.recipe, self.home)
        draft = target.with_name(target.name + ".new")
        draft.write_bytes(msgspec.json.encode(said))
        draft.replace(target)
        self.report(said)


@contextmanager
def _locked(
    recipe: Recipe, home: Path, progress: Report, cancelled: threading.Event | None
) -> Iterator[int]:
    fd = os.open(_beside(recipe, home, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if cancelled and cancelled.is_set():
                    raise InstallProblem("The installation was stopped.") from None
                if said := read_progress(recipe, home):
                    progress(said)
                time.sleep(LOOK_AGAIN)
        yield fd
    finally:
        os.close(fd)


def _progress_file(recipe: Recipe, home: Path) -> Path:
    return _beside(recipe, home, ".progress.json")


def _beside(recipe: Recipe, home: Path, ending: str) -> Path:
    path = folder(recipe, home)
    return path.with_name(path.name + ending)


def _pins(step: Step) -> list[str]:
    text = (REQUIREMENTS / step.requirements).read_text()
    return re.findall(r"^([A-Za-z0-9._-]+==\S+)", text, re.MULTILINE)


def _check_space(recipe: Recipe, home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < recipe.disk_bytes:
        raise InstallProblem(
            f"The engine needs {recipe.disk_bytes / 1e9:.0f} GB of disk space and {home} has "
            f"{free / 1e9:.1f} GB free."
        )


def _find_python(recipe: Recipe) -> str:
    """An interpreter of the recipe's version: ours if it fits, else one on the PATH."""
    if recipe.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{recipe.python}")
    if found is None:
        raise InstallProblem(
            f"The engine needs Python {recipe.python}, and there is no python{recipe.python} here."
        )
    return found


def _make_venv(python: str, path: Path) -> None:
    # Our own pip serves it, so that Debian's python3-venv (ensurepip) is not needed twice.
    without = ["--without-pip"] if _own_pip() else []
    made = subprocess.run(
        [python, "-m", "venv", *without, str(path)],
        capture_output=True,
        text=True,
        check=False,
        umask=READABLE,
    )
    if made.returncode:
        raise InstallProblem(_last_line(made.stdout + made.stderr))


def _own_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _pip_command(path: Path) -> list[str]:
    inside = str(path / "bin" / "python")
    if _own_pip():
        return [sys.executable, "-m", "pip", "--python", inside]
    return [inside, "-m", "pip"]


def _pip_environment(workspace: Path) -> dict[str, str]:
    """The operator's pip configuration, less what would install somewhere else."""
    astray = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in astray}
    return kept | {"TMPDIR": str(workspace), "PYTHONUNBUFFERED": "1"}


def _prove(recipe: Recipe, path: Path) -> None:
    code = f"import importlib.metadata as m; print(m.version({recipe.distribution!r}))"
    said = subprocess.run(
        [str(path / "bin" / "python"), "-c", code], capture_output=True, text=True, check=False
    )
    if said.stdout.strip() != recipe.version:
        raise InstallProblem(
            f"The environment was made, but {recipe.distribution} {recipe.version} is not in it."
        )


def _unpacked(path: Path) -> int:
    return sum(1 for _ in path.glob("lib/python*/site-packages/*.dist-info"))


def _size(path: Path) -> int:
    """Bytes of all files below; files that come and go meanwhile are passed over."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _pip_sentence(output: str, home: Path) -> str:
    """What pip means, in a sentence."""
    if "No space left on device" in output:
        return f"The disk of {home} is full."
    if "DO NOT MATCH THE HASHES" in output:
        return (
            "A downloaded package is not the one that was tested (its hash differs); "
            "nothing was installed."
        )
    if re.search(r"NewConnectionError|name resolution|timed out|ConnectTimeout|SSLError", output):
        return "The package index cannot be reached; check the network or pip's configuration."
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        return (
            f"{missing[1]} is not on the package index for this machine "
            f"(Python {sys.version_info.major}.{sys.version_info.minor}, {os.uname().machine})."
        )
    return f"pip could not install the engine: {_last_line(output)}"


def _os_sentence(error: OSError, path: Path) -> str:
    return f"{path} cannot be written: {error.strerror or error}."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no output"])[-1]
