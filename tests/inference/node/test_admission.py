from pathlib import Path

import pytest

from inference.engines import ENGINES
from inference.engines.base import GIB
from inference.node import admission
from inference.node.hardware import MIB, parse_gpus
from inference.node.record import Record
from inference.provisioners.base import Gpu, Phase, Reason, Rejected
from tests.inference.node.rig import spec

L4, H100 = ("NVIDIA L4", 24 * GIB), ("NVIDIA H100", 80 * GIB)
GPUS = [Gpu(i, *kind) for i, kind in enumerate([H100, L4, L4, H100])]


def record(phase: Phase, gpus: list[int], memory: int = GIB, replica_id: str = "r") -> Record:
    of = spec(Path("/m"), replica_id=replica_id)
    made = Record(spec=of, variant="cuda", gpu_indices=gpus, memory_bytes=memory)
    made.phase = phase
    return made


@pytest.mark.parametrize(
    ("taken", "count", "chosen"),
    [
        ({}, 1, [1]),  # the smallest kind that will do
        ({}, 2, [1, 2]),
        ({1: "r"}, 1, [2]),
        ({1: "r"}, 2, [0, 3]),  # two of one kind
        ({1: "r", 2: "r"}, 1, [0]),
    ],
)
def test_gpus_are_of_one_kind_and_free(
    taken: dict[int, str], count: int, chosen: list[int]
) -> None:
    assert admission.choose_gpus(GPUS, taken, count) == chosen


@pytest.mark.parametrize(
    ("taken", "count"), [({}, 3), ({0: "r", 1: "r"}, 2), ({0: "r", 1: "r", 2: "r", 3: "r"}, 1)]
)
def test_without_enough_free_gpus_of_one_kind_it_is_refused(
    taken: dict[int, str], count: int
) -> None:
    with pytest.raises(Rejected) as refused:
        admission.choose_gpus(GPUS, taken, count)

    assert refused.value.reason is Reason.INSUFFICIENT_CAPACITY


def test_a_gpu_is_held_until_its_replica_has_ended() -> None:
    records = [
        record(Phase.READY, [0], replica_id="a"),
        record(Phase.STOPPING, [1], replica_id="b"),
        record(Phase.EXITED, [2], replica_id="c"),
    ]

    assert admission.holders(records) == {0: "a", 1: "b"}


def test_memory_is_promised_until_the_system_counts_it() -> None:
    phases = [Phase.PROVISIONING, Phase.LOADING, Phase.READY, Phase.DEGRADED, Phase.EXITED]

    assert admission.reserved(record(phase, [], memory=GIB) for phase in phases) == 2 * GIB


def test_memory_that_is_free_and_not_promised_can_be_had() -> None:
    admission.check_memory(needed=4, free=10, promised=6)
    for free, promised in [(10, 7), (3, 0), (3, 9)]:
        with pytest.raises(Rejected) as refused:
            admission.check_memory(needed=4, free=free, promised=promised)
        assert refused.value.reason is Reason.INSUFFICIENT_CAPACITY


def test_weights_must_fit_the_gpus_share() -> None:
    admission.check_gpu_memory(GPUS, [1], 19 * GIB, {})
    with pytest.raises(Rejected):
        admission.check_gpu_memory(GPUS, [1], 20 * GIB, {})
    with pytest.raises(Rejected):
        admission.check_gpu_memory(GPUS, [1], 12 * GIB, {"gpu_memory_utilization": 0.5})
    admission.check_gpu_memory(GPUS, [1, 2], 38 * GIB, {})


def test_weights_at_8_bits_take_half_and_copies_take_all_of_it_again() -> None:
    admission.check_gpu_memory(GPUS, [1], 38 * GIB, {"quantization": "fp8"})
    with pytest.raises(Rejected):
        admission.check_gpu_memory(GPUS, [1], 38 * GIB, {"quantization": "auto"})
    with pytest.raises(Rejected):
        admission.check_gpu_memory(GPUS, [1, 2], 38 * GIB, {"data_parallel": 2})


def test_of_an_own_launch_command_only_the_weights_are_known() -> None:
    of = spec(Path("/m"))
    vllm = ENGINES["vllm"]

    assert admission.memory_needed(vllm, of, "cpu", 5, own_command=True) == 5
    assert admission.memory_needed(vllm, of, "cpu", 5, own_command=False) > 3 * GIB


def test_nvidia_smis_lines_are_read_and_broken_ones_passed_over() -> None:
    text = (
        "0, NVIDIA H100 80GB HBM3, 81559\n1, [Unknown Error], [GPU is lost]\n\n2, NVIDIA L4, 23034"
    )

    assert parse_gpus(text) == [
        Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * MIB),
        Gpu(2, "NVIDIA L4", 23034 * MIB),
    ]
