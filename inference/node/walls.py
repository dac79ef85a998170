"""The walls round an engine, from without: whether this machine can have them, who the engine is
within them, and what it sees. Put up by the shim; see enclosure.py for how.

An engine sees, at the paths they have outside: the system's programs and libraries, its own
environment, its models and the folder of its adapters (to read), the folder of its socket, a home
and a scratch folder (to write), and the devices of its GPUs. Of an operator's own launch command
also what that command names, and the folder that the supervisor was started in.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from inference.node import shim
from inference.node.limits import Limits
from inference.provisioners.base import Walls
from portal.lib.env import Environment

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys/devices/system"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/timezone"),
)
GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
GPU_FACTS = Path("/proc/driver/nvidia/gpus")
# Above what systemd gives away to containers; where we are in a container that has not as many
# users, the last ones that it has.
USERS = (range(1_900_000_000, 1_900_010_000), range(64_000, 65_000))
PROCESSES = 4096  # threads count too, and a library may start one per core
PROCESSES_PER_CPU = 64
NICENESS = 2  # the portal and the gateway come first
PROBE_PATIENCE = 20.0  # seconds
LONGEST_CHAIN = 40  # of symbolic links, as in the kernel


class Resident(msgspec.Struct, kw_only=True, frozen=True):
    """One engine to be walled in."""

    folder: Path  # the shim's, which the engine does not see
    writable: tuple[Path, ...]  # its socket's folder, home and scratch, which are ours alone now
    home: Path
    models: tuple[Path, ...]  # that it reads
    readable: tuple[Path, ...] = ()  # what comes into these later is seen within, too
    command: list[str]
    own_command: str = ""  # as the operator has written it
    gpu_indices: tuple[int, ...] = ()
    memory_bytes: int = 0  # that it needs; 0: not known


class NoWalls(Exception):
    """This engine cannot be walled in; the text says why, for people."""


# Whether


def possible(env: Environment) -> Walls:
    """Try it: an empty program within walls."""
    if env.engine_walls == "off":
        return Walls(up=False, message="Engines run without walls: ENGINE_WALLS is off.")
    with tempfile.TemporaryDirectory(prefix="mp-walls-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        program = shutil.which("true") or sys.executable
        resident = Resident(
            folder=folder, writable=(home,), home=home, models=(), command=[program]
        )
        try:
            put_up(resident, env, Limits(None))
            why = _try(folder, program)
        except OSError as problem:
            why = f"They cannot be prepared: {problem.strerror}."
        except (subprocess.TimeoutExpired, NoWalls) as problem:
            why = str(problem)
    if why:
        return Walls(up=False, message=f"Engines run without walls. {why}")
    if os.geteuid() == 0:
        return Walls(up=True, message="Each engine runs within walls, as a user of its own.")
    return Walls(up=True, message="Each engine runs within walls, in a user namespace.")


def _try(folder: Path, program: str) -> str:
    """Why it cannot be; empty if it can."""
    subprocess.run(
        [sys.executable, "-I", shim.__file__, str(folder), program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PROBE_PATIENCE,
        start_new_session=True,
        check=False,
    )
    said = (folder / "engine.log").read_text().strip()
    if json.loads((folder / "exit.json").read_text())["exit_code"] == 0:
        return ""
    return said.splitlines()[-1] if said else "The machine does not say why."


# Who and what


def put_up(resident: Resident, env: Environment, limits: Limits) -> None:
    """Leave the plan for the shim, and hand the writable folders over to the engine's user. Raises
    NoWalls."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        uid = gid = _free_user(env)
        _make_readable(resident, env)
        for folder in resident.writable:
            os.chown(folder, uid, gid)
    (resident.folder / "root").mkdir(exist_ok=True)
    processes = max(PROCESSES, PROCESSES_PER_CPU * (os.cpu_count() or 1))
    plan = _view(resident, env) | {
        "uid": uid,
        "gid": gid,
        "user_namespace": os.geteuid() != 0,
        "root": str((resident.folder / "root").resolve()),
        "home": str(resident.home),
        "folder": _working_folder(resident),
        "devices": _devices(resident.gpu_indices),
        "processes": processes,
        "nice": NICENESS,
        "groups": limits.set(resident.folder.name, resident.memory_bytes, processes),
    }
    (resident.folder / "walls.json").write_text(json.dumps(plan))


def _free_user(env: Environment) -> int:
    """A user id that no other replica has: its socket's folder says who it is."""
    taken = {folder.stat().st_uid for folder in (env.run_dir / "instances").glob("*")}
    for users in USERS:
        if _known(users):
            return next(uid for uid in users if uid not in taken)
    raise NoWalls("There are too few user ids on this machine for engines to have their own.")


def _known(users: range) -> bool:
    """Whether our user namespace, the machine's or a container's, has these users."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= users.start and users.stop <= first + count:
            return True
    return False


def _make_readable(resident: Resident, env: Environment) -> None:
    """For the engine's user. What we have downloaded is ours to open, anything else is not."""
    ours = (env.home / "models").resolve()
    read = [
        (model, path)
        for model in resident.models
        for path in (model, *model.iterdir(), *model.glob("*/*.gguf"))
    ]
    for model, path in read:
        mode, needed = path.stat().st_mode, 0o005 if path.is_dir() else 0o004
        if mode & needed == needed:
            continue
        if not path.resolve().is_relative_to(ours):
            raise NoWalls(
                f"Engines run as users of their own, who may not read {path}. "
                f"Let them: chmod -R o+rX {model}"
            )
        path.chmod(mode | needed)
    for path in programs(resident.command):
        if not path.stat().st_mode & 0o004:
            raise NoWalls(
                f"Engines run as users of their own, who may not read {path}. "
                f"Let them: chmod -R o+rX {path}"
            )


def _view(resident: Resident, env: Environment) -> dict[str, object]:
    """What it sees, as enclosure.build wants it: later ones lie on top of earlier ones."""
    outside = [Path(path) for path in SYSTEM]
    if resident.gpu_indices:
        outside.append(Path("/sys"))
    for name in ("CUDA_HOME", "LD_LIBRARY_PATH"):
        outside += [Path(path) for path in os.environ.get(name, "").split(":") if path]
    if resident.own_command:
        outside += _named(resident.own_command)
        outside.append(Path(_working_folder(resident)))
    own = [*programs(resident.command), *resident.models, *resident.readable]
    for model in resident.models:
        own += _linked(model, env)
    links: dict[str, str] = {}
    shown = _real(outside, links)
    hidden = [str(path.resolve()) for path in (env.home, env.run_dir)]
    shown_last = _real(own, links)
    writable = _real(resident.writable, links)
    return {
        "shown": [(path, False) for path in shown],
        "hidden": [path for path in hidden if any(_within(path, one) for one in shown)],
        "shown_last": [
            *((path, False) for path in shown_last if not _holds(path, hidden)),
            *((path, True) for path in writable),
        ],
        "links": list(links.items()),
    }


def _working_folder(resident: Resident) -> str:
    """An operator's own command may be meant relative to where the supervisor was started; a
    person's whole home, or the whole machine, is not shown for that."""
    here = Path.cwd().resolve()
    if resident.own_command and here not in (Path("/"), Path.home().resolve()):
        return str(here)
    return str(resident.home)


def programs(command: Sequence[str]) -> list[Path]:
    """What must be there for this program to start."""
    found = shutil.which(command[0])
    return list(environment_of(Path(found).absolute())) if found else []


def _named(command: str) -> list[Path]:
    """All that an operator's own command names, however deep in quotes."""
    words = [Path(word).absolute() for word in re.split(r"[\s'\"=:;]+", command) if "/" in word]
    there = [path for path in words if path.exists() and not _is_broad(path)]
    return [found for path in there for found in environment_of(path)]


def _is_broad(path: Path) -> bool:
    return Path.home().resolve().is_relative_to(path.resolve())


def environment_of(path: Path) -> Iterator[Path]:
    """A program in the `bin` of a Python environment is shown with all of the environment, and
    with the one that that was made from; anything else by itself."""
    for _ in range(LONGEST_CHAIN):
        prefix = path.parent.parent
        if path.parent.name == "bin" and _is_environment(prefix) and not _is_broad(prefix):
            yield prefix
            yield from _base_of(prefix)
        else:
            yield path
        if not path.is_symlink():
            return
        path = path.parent.resolve() / path.readlink()


def _is_environment(prefix: Path) -> bool:
    return (prefix / "pyvenv.cfg").exists() or any(prefix.glob("lib/python3*"))


def _base_of(prefix: Path) -> Iterator[Path]:
    try:
        text = (prefix / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return
    if found := re.search(r"^home *= *(\S.*)$", text, re.MULTILINE):
        base = Path(found[1].strip()).parent
        if not _is_broad(base):
            yield base


def _linked(model: Path, env: Environment) -> Iterator[Path]:
    """The hub's cache has links in a model's folder, to where the files are. None leads to what is
    ours and no model."""
    for path in model.rglob("*"):
        real = path.resolve()
        ours = real.is_relative_to(env.home.resolve())
        model_of_ours = real.is_relative_to((env.home / "models").resolve())
        if path.is_symlink() and real.exists() and (model_of_ours or not ours):
            yield real


def _real(paths: Iterable[Path], links: dict[str, str]) -> list[str]:
    """The same without symbolic links, each once and the outer ones first; the links that lead
    there are added to `links`."""
    found = {_follow(path, links) for path in paths}
    real = sorted(str(path) for path in found if path.exists())
    return [one for one in real if not any(_within(one, other) for other in real if other != one)]


def _follow(path: Path, links: dict[str, str]) -> Path:
    reached, rest = Path("/"), list(path.absolute().parts[1:])
    for _ in range(LONGEST_CHAIN * len(rest) + LONGEST_CHAIN):
        if not rest:
            break
        step = reached / rest.pop(0)
        if step.is_symlink():
            links[str(step)] = str(step.readlink())
            target = Path(os.path.normpath(reached / step.readlink()))
            reached, rest = Path("/"), [*target.parts[1:], *rest]
        else:
            reached = step
    return reached


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _holds(path: str, hidden: list[str]) -> bool:
    """Whether showing it would show what is hidden."""
    return any(_within(one, path) for one in hidden)


def _devices(indices: tuple[int, ...]) -> list[str]:
    if not indices:
        return []
    _have_unified_memory()
    names = [*GPU_DEVICES, *(f"nvidia{minor}" for minor in _minors(indices))]
    return [f"/dev/{name}" for name in names if Path("/dev", name).exists()]


def _have_unified_memory() -> None:
    """The driver's helper, which has root's rights for it, makes this device when it is first
    used. Within walls it has none."""
    helper = shutil.which("nvidia-modprobe")
    if helper and not Path("/dev/nvidia-uvm").exists():
        subprocess.run([helper, "-u", "-c=0"], timeout=PROBE_PATIENCE, check=False)


def _minors(indices: tuple[int, ...]) -> list[int]:
    """The device numbers of these GPUs. Ours count in the order of the bus, the driver's need
    not."""
    cards = sorted(GPU_FACTS.glob("*/information"))
    texts = [card.read_text() for card in cards]
    minors = [int(n) for text in texts for n in re.findall(r"Device Minor:\s*(\d+)", text)]
    return [minors[index] if index < len(minors) else index for index in indices]
