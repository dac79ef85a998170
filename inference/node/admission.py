"""May this replica come in? Decided from numbers, before anything is started. PURE."""

from collections.abc import Collection, Iterable

from inference.engines.base import Engine, SettingValue, Variant
from inference.node.record import Record
from inference.provisioners.base import Gpu, Phase, Reason, Rejected, Spec


class NoMemory(Rejected):
    """The machine's memory is taken."""


GPU_OVERHEAD = 1.1  # activations and CUDA contexts on top of the weights, at the least


def holders(records: Iterable[Record]) -> dict[int, str]:
    """GPU index → replica that has it; one that has exited, or sleeps, has given its own back."""
    return {
        index: record.spec.replica_id
        for record in records
        if record.phase not in {Phase.EXITED, Phase.ASLEEP}
        for index in record.gpu_indices
    }


def sleepers(records: Iterable[Record], gpus: Collection[int]) -> list[str]:
    """The replicas that sleep and would want one of these GPUs again."""
    return [
        record.spec.replica_id
        for record in records
        if record.phase is Phase.ASLEEP and not set(gpus).isdisjoint(record.gpu_indices)
    ]


def reserved(records: Iterable[Record]) -> int:
    """Bytes promised to replicas that have not taken them yet: the system's count of free memory
    does not know of those."""
    coming = {Phase.PROVISIONING, Phase.LOADING}
    return sum(record.memory_bytes for record in records if record.phase in coming)


def choose_gpus(
    gpus: list[Gpu], taken: dict[int, str], count: int, slept_on: Collection[int] = ()
) -> list[int]:
    """Free GPUs of one kind, the smallest kind that has enough; last those that a sleeper would
    lose by it. Raises Rejected."""
    kinds: dict[tuple[int, str], list[int]] = {}
    for gpu in gpus:
        if gpu.index not in taken:
            kinds.setdefault((gpu.memory_bytes, gpu.name), []).append(gpu.index)
    for kind in sorted(kinds):
        if len(kinds[kind]) >= count:
            return sorted(sorted(kinds[kind], key=lambda i: (i in slept_on, i))[:count])
    free = sum(len(indices) for indices in kinds.values())
    raise Rejected(
        Reason.INSUFFICIENT_CAPACITY,
        f"{count} GPUs of one kind are needed; {free} of {len(gpus)} are free on this machine.",
    )


def check_gpu_memory(
    gpus: list[Gpu], chosen: list[int], weight_bytes: int, settings: dict[str, SettingValue]
) -> None:
    """Raises Rejected when the weights alone are too much for these GPUs: as the files have them,
    or at 8 bits where they are quantized while they are loaded, once for each copy."""
    weight_bytes *= int(settings.get("data_parallel", 1))
    if str(settings.get("quantization", "")).startswith("fp8"):
        weight_bytes //= 2
    share = float(settings.get("gpu_memory_utilization", 0.9))
    room = int(share * sum(gpu.memory_bytes for gpu in gpus if gpu.index in chosen))
    if weight_bytes * GPU_OVERHEAD > room:
        raise Rejected(
            Reason.INSUFFICIENT_CAPACITY,
            f"The weights take {weight_bytes / 1e9:.1f} GB and the GPUs offer {room / 1e9:.1f} GB.",
        )


def memory_needed(
    engine: Engine, spec: Spec, variant: Variant, weight_bytes: int, own_command: bool
) -> int:
    """Bytes of the machine's memory. Of an operator's own launch command we know only the model."""
    if own_command:
        return weight_bytes
    return engine.memory_bytes(spec.settings, variant, weight_bytes)


def check_memory(needed: int, free: int, promised: int) -> None:
    """Raises Rejected when `needed` bytes are more than is free and not promised."""
    room = max(0, free - promised)
    if needed > room:
        raise NoMemory(
            Reason.INSUFFICIENT_CAPACITY,
            f"The engine needs about {needed / 1e9:.1f} GB of memory and {room / 1e9:.1f} GB is "
            "free on this machine.",
        )
