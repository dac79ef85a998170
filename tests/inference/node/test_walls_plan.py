"""What the plan of an engine's walls shows, and what it refuses to show."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.node import shim, walls
from inference.node.limits import Limits
from inference.provisioners.base import Reason
from portal.lib.env import Environment, EnvironmentProblem, read
from tests.inference.node.rig import rig, wait_until
from tests.inference.node.rig import write_model as write


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    home = tmp_path / "home"
    (home / "run" / "instances").mkdir(parents=True)
    return read({"MODELPORT_HOME": str(home)})


def resident(env: Environment, **changes: Any) -> walls.Resident:
    folder = env.home / "instances" / "one"
    facts: dict[str, Any] = {
        "folder": folder,
        "home": folder / "home",
        "writable": (folder / "home",),
        "models": (),
        "command": ["true"],
    }
    made = walls.Resident(**(facts | changes))
    for path in (folder, *made.writable):
        path.mkdir(parents=True, exist_ok=True)
    return made


def plan(env: Environment, **changes: Any) -> dict[str, Any]:
    one = resident(env, **changes)
    walls.put_up(one, env, Limits(None))
    made: dict[str, Any] = json.loads((one.folder / "walls.json").read_text())
    return made


def to_read(made: dict[str, Any]) -> set[str]:
    return {path for path, writable in made["shown"] + made["shown_last"] if not writable}


def make_environment(prefix: Path, base: str = "") -> Path:
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(f"home = {base}\n" if base else "")
    program = prefix / "bin" / "engine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_an_environment_is_shown_whole_and_with_what_it_was_made_from(
    env: Environment, tmp_path: Path
) -> None:
    base = make_environment(tmp_path / "python")
    program = make_environment(tmp_path / "environment", base=str(base.parent))

    made = plan(env, command=[str(program)])

    assert {str(tmp_path / "environment"), str(tmp_path / "python")} <= to_read(made)


def test_a_program_elsewhere_is_shown_alone(env: Environment, tmp_path: Path) -> None:
    program = tmp_path / "person" / "bin" / "engine"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)

    assert str(program) in to_read(plan(env, command=[str(program)]))
    assert str(tmp_path / "person") not in to_read(plan(env, command=[str(program)]))


def test_links_on_the_way_are_there_too(env: Environment, tmp_path: Path) -> None:
    program = make_environment(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")

    made = plan(env, command=[str(tmp_path / "link" / "bin" / "engine")])

    assert str(tmp_path / "real") in to_read(made)
    assert [str(tmp_path / "link"), "real"] in made["links"]
    assert program.exists()


def test_of_an_operators_command_what_it_names_is_shown(env: Environment, tmp_path: Path) -> None:
    template = tmp_path / "a.jinja"
    template.touch()
    command = f"""sh -c 'exec python3 --chat-template={template} "$@"' engine"""

    assert str(template) in to_read(plan(env, command=["sh"], own_command=command))
    assert str(template) not in to_read(plan(env, command=["sh"]))


@pytest.mark.parametrize("folder", ["/", "~"])
def test_neither_the_machine_nor_a_persons_home_is_shown(
    env: Environment, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(folder).expanduser()
    monkeypatch.chdir(here)

    made = plan(env, command=["sh"], own_command=f"sh {here}")

    assert str(here) not in to_read(made)
    assert made["folder"] == made["home"]


def test_our_home_is_hidden_where_it_lies_within_what_is_shown(
    env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    made = plan(env, command=["sh"], own_command="sh -c engine")

    assert [str(tmp_path), False] in made["shown"]
    assert str(env.home) in made["hidden"]


def test_a_link_in_a_model_shows_the_file_but_never_our_secrets(
    env: Environment, tmp_path: Path
) -> None:
    model, blobs = env.home / "models" / "m" / "snapshots", env.home / "models" / "m" / "blobs"
    write(model)
    for path in (blobs / "1", env.home / "secrets" / "key", tmp_path / "store"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (model / "a.safetensors").symlink_to("../blobs/1")
    (model / "b.safetensors").symlink_to(tmp_path / "store")
    (model / "c.safetensors").symlink_to(env.home / "secrets" / "key")

    shown = to_read(plan(env, models=(model,)))

    assert {str(model), str(blobs / "1"), str(tmp_path / "store")} <= shown
    assert not [path for path in shown if "secrets" in path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives engines users of their own")
def test_each_engine_gets_a_user_that_no_other_has(env: Environment) -> None:
    def next_user(name: str) -> int:
        socket = env.run_dir / "instances" / name
        made = plan(env, writable=(socket,))
        assert socket.stat().st_uid == made["uid"]
        return int(made["uid"])

    assert len({next_user(name) for name in ("a", "b", "c")}) == 3
    (env.run_dir / "instances" / "b").rmdir()
    assert next_user("d") not in {next_user("a"), next_user("c")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives engines users of their own")
def test_a_model_that_others_may_not_read_is_told_with_the_remedy(
    env: Environment, tmp_path: Path
) -> None:
    model = tmp_path / "m"
    write(model)
    (model / "config.json").chmod(0o600)

    with pytest.raises(walls.NoWalls, match=r"config\.json.*chmod -R o\+rX"):
        plan(env, models=(model,))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives engines users of their own")
def test_a_model_of_our_own_is_made_readable(env: Environment) -> None:
    model, blob = env.home / "models" / "m", env.home / "models" / "blob"
    write(model)
    blob.touch(mode=0o600)
    (model / "a.safetensors").symlink_to(blob)
    model.chmod(0o700)

    plan(env, models=(model,))

    assert (model.stat().st_mode & 0o007, blob.stat().st_mode & 0o007) == (0o005, 0o004)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives engines users of their own")
def test_an_environment_that_others_may_not_read_is_told_too(
    env: Environment, tmp_path: Path
) -> None:
    program = make_environment(tmp_path / "private")
    (tmp_path / "private").chmod(0o700)

    with pytest.raises(walls.NoWalls, match=f"chmod -R o\\+rX {tmp_path / 'private'}"):
        plan(env, command=[str(program)])


def test_only_the_three_words_are_settings() -> None:
    assert read({}).engine_walls == "auto"
    assert read({"ENGINE_WALLS": "Require"}).engine_walls == "require"
    with pytest.raises(EnvironmentProblem, match="auto, require, off"):
        read({"ENGINE_WALLS": "yes"})


def test_walls_switched_off_are_told(tmp_path: Path) -> None:
    with rig(ENGINE_WALLS="off") as node:
        (machine,) = node.provisioner.check().nodes

    assert machine.walls is not None and not machine.walls.up
    assert "ENGINE_WALLS" in machine.walls.message


# As in most containers: root, but without CAP_SYS_ADMIN (21), and it does not come back.
CONTAINED = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="what root lacks, root must have had")
@pytest.mark.parametrize("setting", ["auto", "require"])
def test_where_there_can_be_no_walls_it_says_why_and_require_starts_nothing(setting: str) -> None:
    with rig(begin=False, ENGINE_WALLS=setting) as node:
        node.before = ["-c", CONTAINED]
        node.start()
        (machine,) = node.provisioner.check().nodes
        assert machine.walls is not None and not machine.walls.up
        assert machine.walls.message == (
            "Engines run without walls. The walls cannot be put up: "
            "unshare: Operation not permitted."
        )

        handle = node.provisioner.ensure(node.spec())

        wait_until(lambda: node.provisioner.observe(handle).phase in ("ready", "exited"))
        seen = node.provisioner.observe(handle)
        if setting == "auto":
            assert seen.phase == "ready"
        else:
            assert seen.phase == "exited" and seen.reason is Reason.IMAGE_ERROR
            assert seen.message == machine.walls.message


DECEIVER = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
assert libc.mount(b"none", b"/", b"none", 16384 | 1 << 18, b"") == 0
assert libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"") == 0
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    kept = mmap.mmap(file.fileno(), 4096)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_file_of_the_same_name_in_its_own_shared_memory_does_not_cost_us_ours() -> None:
    ours = Path(f"/dev/shm/mpt-{os.getpid()}")
    ours.write_bytes(b"x" * 4096)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", DECEIVER, str(ours)], stdout=subprocess.PIPE
        ) as deceiver:
            assert deceiver.stdout is not None and deceiver.stdout.readline() == b"held\n"
            assert str(ours) in Path(f"/proc/{deceiver.pid}/maps").read_text()

            shim.kill([deceiver.pid])

        assert ours.exists()
    finally:
        ours.unlink(missing_ok=True)


def test_a_folder_that_fills_later_is_shown_to_read(env: Environment) -> None:
    adapters = env.home / "instances" / "one" / "adapters"
    adapters.mkdir(parents=True)

    made = plan(env, readable=(adapters,))

    assert str(adapters) in to_read(made)
    assert str(adapters.parent) not in to_read(made)
