"""Engines on GPUs that sleep at hand: a real supervisor, the fake engine, GPUs by name only."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from inference.node import processes
from inference.provisioners.base import Handle, Phase, Reason
from tests.inference.node.rig import Rig, rig, wait_for, wait_until

DRIVER = """#!/bin/sh
case "$1" in
  *memory.total*) case "$1" in *utilization*) ;; *) echo "0, Tiny GPU, 81920" ;; esac ;;
esac
"""


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[Rig]:
    tools = Path(tempfile.mkdtemp(prefix="mpt-"))
    (tools / "nvidia-smi").write_text(DRIVER)
    (tools / "nvidia-smi").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{before}"
    try:
        with rig(MODELPORT_ENGINE_WALLS="off") as made:
            yield made
    finally:
        os.environ["PATH"] = before
        shutil.rmtree(tools)


def ready(place: Rig) -> Handle:
    handle = place.provisioner.ensure(place.spec(gpu_count=1))
    assert wait_for(place.provisioner, handle, Phase.READY).can_sleep
    return handle


def asleep(place: Rig) -> Handle:
    handle = ready(place)
    assert place.provisioner.sleep(handle)
    wait_for(place.provisioner, handle, Phase.ASLEEP)
    return handle


def remove(place: Rig, *handles: Handle) -> None:
    for handle in handles:
        place.provisioner.delete(handle)
    for handle in handles:
        wait_for(place.provisioner, handle, Phase.GONE)


def test_it_lets_go_of_its_gpu_and_the_same_process_wakes(one_gpu: Rig) -> None:
    handle = ready(one_gpu)
    pid = one_gpu.provisioner.observe(handle).pid
    assert one_gpu.provisioner.sleep(handle)
    assert one_gpu.provisioner.sleep(handle)
    seen = wait_for(one_gpu.provisioner, handle, Phase.ASLEEP)
    assert (seen.address, seen.can_sleep) == ("", False)
    assert one_gpu.provisioner.check().nodes[0].gpus[0].replica_id == ""

    one_gpu.provisioner.wake(handle)
    one_gpu.provisioner.wake(handle)
    seen = wait_for(one_gpu.provisioner, handle, Phase.READY)
    assert seen.pid == pid and seen.address
    assert seen.probe is not None and seen.probe.requests == 2  # ready means that it generates
    assert one_gpu.provisioner.check().nodes[0].gpus[0].replica_id == handle.replica_id
    remove(one_gpu, handle)


def test_what_it_computes_is_finished_first(one_gpu: Rig) -> None:
    handle = ready(one_gpu)
    address = one_gpu.provisioner.observe(handle).address.removeprefix("unix:")
    with (
        httpx2.Client(transport=httpx2.HTTPTransport(uds=address)) as client,
        client.stream(
            "POST",
            "http://engine/v1/completions",
            json={"model": "acme-chat", "prompt": "[[fake tokens=40 delay=0.02]]", "stream": True},
        ) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        assert one_gpu.provisioner.sleep(handle)
        assert "data: [DONE]" in list(lines)
    wait_for(one_gpu.provisioner, handle, Phase.ASLEEP)
    remove(one_gpu, handle)


def test_who_needs_its_gpu_gets_it_once_the_sleeper_is_gone(one_gpu: Rig) -> None:
    sleeper = asleep(one_gpu)
    other = ready(one_gpu)
    seen = one_gpu.provisioner.observe(sleeper)
    assert (seen.phase, seen.reason) == (Phase.EXITED, Reason.PREEMPTED)
    assert processes.of_replica(sleeper.replica_id, None) == []
    remove(one_gpu, sleeper, other)


def test_a_supervisor_that_was_killed_finds_it_asleep_and_can_wake_it(one_gpu: Rig) -> None:
    handle = asleep(one_gpu)
    pid = one_gpu.provisioner.observe(handle).pid
    one_gpu.kill()
    one_gpu.start()
    assert one_gpu.provisioner.observe(handle).phase is Phase.ASLEEP
    one_gpu.provisioner.wake(handle)
    assert wait_for(one_gpu.provisioner, handle, Phase.READY).pid == pid
    remove(one_gpu, handle)


def test_one_that_dies_in_its_sleep_is_told_of(one_gpu: Rig) -> None:
    handle = asleep(one_gpu)
    for pid in processes.of_replica(handle.replica_id, None):
        processes.send(pid, signal.SIGKILL)
    wait_until(lambda: one_gpu.provisioner.observe(handle).phase is Phase.EXITED)
    remove(one_gpu, handle)


def test_one_that_cannot_sleep_says_so(one_gpu: Rig) -> None:
    on_cpu = one_gpu.provisioner.ensure(one_gpu.spec())
    assert not wait_for(one_gpu.provisioner, on_cpu, Phase.READY).can_sleep
    assert not one_gpu.provisioner.sleep(on_cpu)
    unwilling = one_gpu.provisioner.ensure(
        one_gpu.spec(gpu_count=1, settings={"sleep_mode": False})
    )
    assert not wait_for(one_gpu.provisioner, unwilling, Phase.READY).can_sleep
    assert not one_gpu.provisioner.sleep(unwilling)
    remove(one_gpu, on_cpu, unwilling)
