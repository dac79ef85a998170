"""Measured starts: what an engine said of its memory, what was estimated, and what that teaches.

keep()           when a replica is ready for the first time: the engine's figures. No I/O beyond
                 the database, for the reconciler waits.
estimate_new()   some moments later, by a task: what was to be expected. It needs the model's
                 card, for which the hub may have to be asked.
Corrections      for whoever shows an estimate or decides by one.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Self

from django.utils import timezone
from msgspec.structs import replace

from inference import catalog
from inference.fit import Hardware, Wish, estimate
from inference.fit.correction import Correction, Start, learn
from inference.hub import HubError
from inference.measured import Measured
from inference.model_card import ModelCard
from inference.models import FitRecord, Instance, InstanceRevision, Node, Replica

REMEMBERED = 500  # starts, the newest of the house
AT_ONCE = 20
TELLING = 2048  # tokens: of a shorter context the last block, mostly empty, is too large a part
PATIENCE = timedelta(days=1)  # with a hub that cannot be reached


def keep(instance: Instance, replica: Replica) -> None:
    """Write down what a start took; once for each replica. Not where a draft model was loaded too:
    nothing tells how much of it was that one's."""
    started = _started(instance, replica)
    if started.draft_id:
        return
    wish = Wish.of(started.settings, started.gpu_count)
    memory = _memory_bytes(replica)
    FitRecord.objects.get_or_create(
        replica=replica,
        defaults={
            "engine": started.engine,
            "engine_version": replica.engine_version,
            "dtype": wish.dtype,
            "quantization": wish.quantization,
            "kv_dtype": wish.kv_dtype,
            "gpu_type": replica.gpu_type,
            "gpu_count": len(replica.gpu_indices),
            "context_length": replica.context_length,
            "memory_bytes": memory,
            "available_bytes": int(memory * wish.gpu_share)
            if memory and replica.gpu_indices
            else None,
            "measured_weight_bytes": replica.weight_bytes,
            "measured_kv_cache_bytes": replica.kv_cache_bytes,
            "measured_kv_tokens": replica.kv_cache_tokens,
            "measured_concurrency": replica.max_concurrency,
        },
    )


def estimate_new() -> int:
    """Work out what was to be expected of the starts that wait for it; returns of how many."""
    waiting = FitRecord.objects.filter(
        estimated_at=None, created_at__gte=timezone.now() - PATIENCE
    ).select_related("replica__instance__organization", "replica__revision")
    done = 0
    for record in waiting.order_by("created_at")[:AT_ONCE]:
        started = _started(record.replica.instance, record.replica)
        try:
            card = catalog.describe(
                record.replica.instance.organization,
                started.model_source,
                started.model_id,
                started.model_revision,
                started.model_file,
            )
        except HubError as problem:
            if problem.retryable:
                continue
        else:
            _estimate(record, card, Wish.of(started.settings, record.gpu_count))
        record.estimated_at = timezone.now()
        record.save()
        done += 1
    return done


class Corrections:
    """What the newest starts of the house teach, by engine, architecture and type of GPU."""

    def __init__(self, records: Iterable[FitRecord] = ()) -> None:
        self._starts: dict[tuple[str, str, str], list[Start]] = defaultdict(list)
        for record in records:
            kind = (record.engine, record.architecture, record.gpu_type)
            self._starts[kind].append(_start_of(record))

    @classmethod
    def of_house(cls) -> Self:
        """By what is known now."""
        known = FitRecord.objects.exclude(estimated_weight_bytes=None).exclude(architecture="")
        return cls(known.order_by("-created_at")[:REMEMBERED])

    def correction(self, engine: str, card: ModelCard, gpu_type: str, wish: Wish) -> Correction:
        """For an estimate of this model with that engine there; empty GPU type: main memory."""
        if not card.architecture:
            return Correction()
        starts = self._starts.get((engine, card.architecture, gpu_type), [])
        return learn(starts, _number_format(wish.dtype, _quantization(card, wish)))


def _started(instance: Instance, replica: Replica) -> Instance | InstanceRevision:
    """What it was started with."""
    return replica.revision or instance


def _memory_bytes(replica: Replica) -> int | None:
    """Of one of its GPUs, or of its machine; None where the machine has not described itself."""
    node = Node.objects.filter(name=replica.node).first()
    if node is None:
        return None
    if not replica.gpu_indices:
        return node.memory_bytes
    sizes = [gpu["memory_bytes"] for gpu in node.gpus if gpu.get("index") in replica.gpu_indices]
    return min(sizes, default=None)


def _estimate(record: FitRecord, card: ModelCard, wish: Wish) -> None:
    """What was to be expected of it, by the arithmetic alone and as people were told."""
    record.architecture = card.architecture
    record.quantization = _quantization(card, wish)
    if record.memory_bytes is None:
        return
    on_gpu = bool(record.gpu_count)
    hardware = Hardware(
        memory_bytes=0 if on_gpu else record.memory_bytes,
        gpu_memory_bytes=(record.memory_bytes,) * record.gpu_count,
    )
    wish = replace(wish, context=record.context_length or wish.context)
    bare = estimate(card, hardware, wish)
    copies = wish.copies if on_gpu else 1
    gpus = max(1, record.gpu_count)
    record.estimated_weight_bytes = bare.weight_bytes // gpus
    record.estimated_overhead_bytes = bare.overhead_bytes // gpus
    if bare.request_bytes is not None and bare.kv_bytes_per_token is not None:
        record.estimated_request_bytes = bare.request_bytes * copies // gpus
        record.estimated_kv_bytes_per_token = bare.kv_bytes_per_token * copies // gpus
    if bare.concurrency is not None and bare.kv_tokens is not None:
        record.estimated_concurrency = bare.concurrency / copies
        record.estimated_kv_tokens = bare.kv_tokens // copies
    correction = Corrections.of_house().correction(record.engine, card, record.gpu_type, wish)
    told = estimate(card, hardware, wish, correction).kv_tokens
    if told is not None and record.measured_kv_tokens:
        record.error = told / copies / record.measured_kv_tokens - 1


def _start_of(record: FitRecord) -> Start:
    tells = record.context_length is not None and record.context_length >= TELLING
    return Start(
        available_bytes=record.available_bytes or 0,
        weight_bytes=record.estimated_weight_bytes or 0,
        overhead_bytes=record.estimated_overhead_bytes or 0,
        request_bytes=record.estimated_request_bytes if tells else None,
        number_format=_number_format(record.dtype, record.quantization),
        measured=Measured(
            kv_cache_tokens=record.measured_kv_tokens,
            max_concurrency=record.measured_concurrency,
            weight_bytes=record.measured_weight_bytes,
            kv_cache_bytes=record.measured_kv_cache_bytes,
        ),
    )


def _quantization(card: ModelCard, wish: Wish) -> str:
    """Of the weights: that of the files, which no setting changes, else what was asked for."""
    return card.quantization or wish.quantization


def _number_format(dtype: str, quantization: str) -> str:
    return f"{dtype}/{quantization}"
