"""The parts of a replica's life that would take minutes to wait for."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from inference.lifecycle import Stage
from inference.node import processes, replica
from inference.node.client import EngineClient, ProbeRefused
from inference.node.record import Record
from inference.node.replica import Failure, Host, Replica
from inference.provisioners.base import Phase, ProbeUsage, Reason
from portal.lib import env
from tests.inference.node.rig import spec


class Machine:
    """A host that is asked for nothing here."""

    def __init__(self, home: Path) -> None:
        self.env = env.read({"MODELPORT_HOME": str(home)})


class Engine:
    """A client of an engine whose health is written down beforehand."""

    def __init__(self, *health: bool) -> None:
        self.health = list(health)

    async def healthy(self) -> bool:
        return self.health.pop(0)

    async def metrics(self) -> str:
        return "vllm:num_requests_running 0.0\n"


@pytest.fixture
def serving(tmp_path: Path) -> Replica:
    of = spec(tmp_path / "model")
    record = Record(spec=of, variant="cpu", gpu_indices=[], memory_bytes=0, phase=Phase.READY)
    record.ready_at = record.started_at = datetime.now(UTC)
    made = Replica(cast(Host, Machine(tmp_path)), record)
    made.folder.mkdir(parents=True)
    return made


async def look(at: Replica, *health: bool) -> Phase:
    client = cast(EngineClient, Engine(*health))
    for _ in health:
        await at._look_at_serving(client)
    return at.record.phase


async def test_one_missed_answer_is_no_trouble(serving: Replica) -> None:
    assert await look(serving, False, False, True, False, False) is Phase.READY


async def test_an_engine_that_stays_silent_is_degraded_until_it_answers(serving: Replica) -> None:
    assert await look(serving, False, False, False) is Phase.DEGRADED
    assert serving.observed().address, "requests may still get through"
    assert await look(serving, True) is Phase.READY


async def test_of_an_engine_that_stays_silent_it_is_not_known_whether_it_rests(
    serving: Replica,
) -> None:
    await look(serving, True)
    assert serving.observed().idle_since is not None

    await look(serving, False, False, False)
    assert serving.observed().idle_since is None


async def test_of_an_engine_that_counts_nothing_it_is_known_what_it_takes(
    serving: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.engine, "metrics_path", "")
    serving.record.shim = processes.identify(os.getpid())

    await look(serving, True)

    seen = serving.observed()
    assert seen.figures is not None and seen.figures.memory_bytes
    assert seen.idle_since is None


def test_an_engine_that_is_not_ready_in_time_is_given_up(serving: Replica) -> None:
    serving._check_load_time()

    serving.record.started_at = datetime.now(UTC) - timedelta(seconds=replica.LOAD_TIMEOUT + 1)

    with pytest.raises(Failure) as failure:
        serving._check_load_time()
    assert failure.value.reason is Reason.LOAD_TIMEOUT


def test_an_engine_that_is_up_and_generates_nothing_is_given_up(serving: Replica) -> None:
    refusal = ProbeRefused("404 no such model")
    for _ in range(replica.PROBES_REFUSED - 1):
        serving._refused(refusal)

    with pytest.raises(Failure, match="no such model") as failure:
        serving._refused(refusal)
    assert failure.value.reason is Reason.BAD_ARGUMENTS


def test_what_all_probes_consumed_is_added_up(serving: Replica) -> None:
    serving._count_probe(ProbeUsage(6, 2))
    serving._count_probe(ProbeUsage(6, 2))

    assert serving.record.probe == ProbeUsage(12, 4, 2)


def test_a_new_stage_is_one_event_however_often_it_is_said(serving: Replica) -> None:
    for _ in range(3):
        serving._move(Phase.LOADING, Stage.WARMING, "Generating the first words.")

    assert [event.reason for event in serving.record.events] == [Stage.WARMING]
