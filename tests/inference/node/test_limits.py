"""What is written into a control group. A folder stands for the kernel's: its own files appear when
they are written to."""

from pathlib import Path

import pytest

from inference.node.limits import Limits


@pytest.fixture
def group(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    return tmp_path


def test_an_engine_may_take_twice_what_it_needs(group: Path) -> None:
    (joined,) = Limits(group).set("one", 1000, 64)

    own = Path(joined).parent
    assert (Path(joined).name, own.parent) == ("cgroup.procs", group)
    assert {path.name: path.read_text() for path in own.iterdir()} == {
        "memory.max": "2000",
        "memory.oom.group": "1",
        "pids.max": "64",
        "cpu.weight": "50",
    }


def test_of_an_unknown_need_nothing_is_limited(group: Path) -> None:
    (joined,) = Limits(group).set("one", 0, 64)

    assert not (Path(joined).parent / "memory.max").exists()


def test_only_what_has_been_given_to_us_is_used(group: Path) -> None:
    (group / "cgroup.controllers").write_text("pids\n")

    (joined,) = Limits(group).set("one", 1000, 64)

    assert [path.name for path in Path(joined).parent.iterdir()] == ["pids.max"]


@pytest.mark.parametrize(("killed", "told"), [(0, False), (3, True)])
def test_the_kernel_tells_who_ran_out_of_memory(group: Path, killed: int, told: bool) -> None:
    limits = Limits(group)
    (joined,) = limits.set("one", 1000, 64)
    events = f"low 0\nhigh 0\nmax 12\noom 1\noom_kill {killed}\noom_group_kill 0\n"
    (Path(joined).parent / "memory.events").write_text(events)

    assert limits.ran_out_of_memory("one") is told


@pytest.mark.parametrize("controllers", ["", "hugetlb"])
def test_without_controllers_there_are_no_limits(group: Path, controllers: str) -> None:
    (group / "cgroup.controllers").write_text(controllers)

    assert Limits(group).set("one", 1000, 64) == []
    assert Limits(None).set("one", 1000, 64) == []
    assert not Limits(None).ran_out_of_memory("one")
