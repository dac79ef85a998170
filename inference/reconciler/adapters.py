"""Keeps the adapters that replicas have those that people want, and tells people how it stands.

After everything else of a round: whatever becomes of an adapter, its instance is not touched.
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence

from inference.models import Adapter, Instance, Replica
from inference.provisioners.base import (
    AdapterPhase,
    AdapterSeen,
    Phase,
    Provisioner,
    Sight,
    Unavailable,
)
from inference.reconciler import writes
from inference.reconciler.place import adapter_spec_of

OVER = {Phase.STOPPING, Phase.EXITED, Phase.GONE}
State = Adapter.State


def keep(
    provisioner: Provisioner,
    instance: Instance,
    adapters: Sequence[Adapter],
    replicas: Iterable[tuple[Replica, Sight]],
) -> bool:
    """One look; whether any is still on its way. Raises Overtaken."""
    living = [
        (replica, sight)
        for replica, sight in replicas
        if replica.state not in {Replica.State.STOPPING, Replica.State.GONE}
        and sight.observed.phase not in OVER
    ]
    wanted = [adapter for adapter in adapters if adapter.state != State.REMOVING]
    ids = {str(adapter.id) for adapter in wanted}
    for replica, sight in living:
        writes.keep_adapters(replica, writes.loaded(sight.observed))
        if to_be_told(ids, sight.observed.adapters):
            with contextlib.suppress(Unavailable):
                specs = [adapter_spec_of(adapter, instance) for adapter in wanted]
                provisioner.adapters(sight.handle, specs)
    seen = [one for _, sight in living for one in sight.observed.adapters]
    for adapter in wanted:
        state, message = standing(one for one in seen if one.adapter_id == str(adapter.id))
        writes.show_adapter(instance, adapter, state, message)
    there = {one.adapter_id for one in seen}
    for adapter in adapters:
        if adapter.state == State.REMOVING and str(adapter.id) not in there:
            writes.forget_adapter(adapter)
    return any(to_be_told(ids, sight.observed.adapters) for _, sight in living)


# PURE from here on


def to_be_told(wanted: Collection[str], seen: Sequence[AdapterSeen]) -> bool:
    """Whether a replica has others than it should, or one is under way: a supervisor that was
    restarted meanwhile has lost the token for it."""
    there = {one.adapter_id for one in seen if one.phase != AdapterPhase.UNLOADING}
    unsettled = {AdapterPhase.LOADING, AdapterPhase.UNLOADING}
    return there != set(wanted) or any(one.phase in unsettled for one in seen)


def standing(seen: Iterable[AdapterSeen]) -> tuple[str, str]:
    """The state of an adapter as its replicas have it, with a sentence. It answers where one has
    it; what is wrong with another is still said."""
    by_phase = {one.phase: one.message for one in seen}
    failure = by_phase.get(AdapterPhase.FAILED, "")
    if AdapterPhase.LOADED in by_phase:
        return State.READY, failure
    if AdapterPhase.LOADING in by_phase:
        return State.LOADING, by_phase[AdapterPhase.LOADING]
    if AdapterPhase.FAILED in by_phase:
        return State.FAILED, failure
    return State.REQUESTED, ""
