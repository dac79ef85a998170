"""What every provisioner keeps: one suite for the fake and for the real ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from inference.lifecycle import Stage
from inference.provisioners.base import (
    AdapterPhase,
    AdapterSpec,
    Handle,
    Phase,
    Provisioner,
    Reason,
    Rejected,
    Spec,
    Unavailable,
)
from inference.provisioners.fake import FakeProvisioner
from inference.provisioners.local import LocalProvisioner
from tests.fakes.hub import tiny_adapter, write_files
from tests.inference.node import rig as node

LORA = {"enable_lora": True}
LOADED = AdapterPhase.LOADED


@dataclass
class Place:
    provisioner: Provisioner
    spec: Callable[..., Spec]
    unreachable: Provisioner

    adapter: Path  # a folder with one that fits

    def ready(self, **changes: object) -> Handle:
        handle = self.provisioner.ensure(self.spec(**changes))
        node.wait_for(self.provisioner, handle, Phase.READY)
        return handle

    def adapter_spec(self, name: str = "tone") -> AdapterSpec:
        return AdapterSpec(
            adapter_id=str(uuid4()),
            name=name,
            source="local",
            model_id="tone",
            model_revision="",
            path=str(self.adapter),
        )

    def adapters(self, handle: Handle) -> dict[str, AdapterPhase]:
        return {one.adapter_id: one.phase for one in self.provisioner.observe(handle).adapters}


@pytest.fixture(scope="module")
def local_place() -> Iterator[Place]:
    with node.rig() as rig:
        away = LocalProvisioner(rig.home / "run" / "none.sock")
        adapter = write_files(rig.home / "an-adapter", tiny_adapter())
        yield Place(rig.provisioner, rig.spec, away, adapter)


def fake_place() -> Place:
    away = FakeProvisioner()
    away.unreachable = True
    adapter = Path("/models/tone")
    return Place(FakeProvisioner(), lambda **c: node.spec(Path("/models/tiny"), **c), away, adapter)


@pytest.fixture(params=["fake", "local"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "fake":
        return fake_place()
    found: Place = request.getfixturevalue("local_place")
    return found


def test_a_replica_comes_up_and_says_where_it_answers(place: Place) -> None:
    handle = place.provisioner.ensure(place.spec(generation=7))

    seen = node.wait_for(place.provisioner, handle, Phase.READY)

    assert seen.address.startswith(("unix:/", "http://"))
    assert seen.generation == handle.generation == 7
    assert seen.pid is not None
    assert seen.started_at is not None and seen.ready_at is not None
    assert seen.started_at <= seen.ready_at


def test_ready_means_that_a_generation_succeeded_and_its_tokens_are_told(place: Place) -> None:
    seen = place.provisioner.observe(place.ready())

    assert seen.probe is not None
    assert seen.probe.prompt_tokens > 0 and seen.probe.completion_tokens > 0
    assert seen.context_length is not None and seen.engine_version
    assert seen.chats is True


def test_one_without_requests_says_since_when_it_rests(place: Place) -> None:
    handle = place.ready()

    node.wait_until(lambda: place.provisioner.observe(handle).idle_since is not None)

    seen = place.provisioner.observe(handle)
    assert seen.figures is not None and seen.figures.running == 0
    place.provisioner.stop(handle, grace=5)
    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)
    assert place.provisioner.observe(handle).idle_since is None


def test_there_is_no_address_before_it_is_ready(place: Place) -> None:
    handle = place.provisioner.ensure(place.spec())

    first = place.provisioner.observe(handle)

    assert first.phase in {Phase.PROVISIONING, Phase.LOADING}
    assert first.stage is not Stage.NONE and first.message
    assert first.address == ""


def test_ensuring_twice_starts_one(place: Place) -> None:
    spec = place.spec()

    first = place.provisioner.ensure(spec)
    second = place.provisioner.ensure(spec, first)

    assert first == second
    assert [h.replica_id for h in place.provisioner.list()].count(spec.replica_id) == 1


def test_a_handle_survives_storage_as_json(place: Place) -> None:
    handle = place.ready()

    again = msgspec.convert(msgspec.to_builtins(handle), Handle)

    assert place.provisioner.observe(again).phase is Phase.READY


def test_stopping_ends_it_and_keeps_its_logs(place: Place) -> None:
    handle = place.ready()

    place.provisioner.stop(handle, grace=5)
    place.provisioner.stop(handle, grace=5)

    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)
    seen = place.provisioner.observe(handle)
    assert seen.reason is Reason.CANCELLED and seen.address == ""
    assert place.provisioner.logs(handle).text


def test_one_that_has_ended_is_not_started_again(place: Place) -> None:
    spec = place.spec()
    handle = place.provisioner.ensure(spec)
    place.provisioner.stop(handle, grace=1)
    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)

    place.provisioner.ensure(spec, handle)

    assert place.provisioner.observe(handle).phase is Phase.EXITED


def test_deleting_leaves_nothing(place: Place) -> None:
    handle = place.ready()

    place.provisioner.delete(handle)
    place.provisioner.delete(handle)

    node.wait_for(place.provisioner, handle, Phase.GONE)
    assert handle not in place.provisioner.list()
    assert place.provisioner.logs(handle).text == ""
    place.provisioner.delete(handle)


def test_one_that_has_ended_can_be_deleted(place: Place) -> None:
    handle = place.ready()
    place.provisioner.stop(handle, grace=5)
    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)

    place.provisioner.delete(handle)

    node.wait_for(place.provisioner, handle, Phase.GONE)


def test_one_look_at_all_shows_what_a_look_at_each_shows(place: Place) -> None:
    up = place.ready()
    coming = place.provisioner.ensure(place.spec(generation=3))

    sights = {s.handle.replica_id: s for s in place.provisioner.observe_all()}

    assert {up.replica_id, coming.replica_id} <= sights.keys()
    assert sights.keys() == {h.replica_id for h in place.provisioner.list()}
    assert sights[up.replica_id].handle == up
    assert sights[coming.replica_id].handle == coming
    one = place.provisioner.observe(up)
    seen = sights[up.replica_id].observed
    assert (seen.phase, seen.address, seen.node) == (Phase.READY, one.address, one.node)
    assert sights[coming.replica_id].observed.generation == 3


def test_one_look_at_all_has_no_logs_in_it(place: Place) -> None:
    handle = place.ready()
    place.provisioner.stop(handle, grace=5)
    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)

    (sight,) = [s for s in place.provisioner.observe_all() if s.handle == handle]

    assert place.provisioner.observe(handle).log_tail
    assert sight.observed.log_tail == []
    assert sight.observed.reason is Reason.CANCELLED


def test_a_place_tells_when_an_engine_ended(place: Place) -> None:
    handle = place.ready()
    up = place.provisioner.observe(handle)
    assert up.ended_at is None and up.ready_at is not None
    before = datetime.now(UTC)

    place.provisioner.stop(handle, grace=5)
    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)

    ended = place.provisioner.observe(handle).ended_at
    assert ended is not None and before <= ended <= datetime.now(UTC)


def test_a_replica_says_where_it_runs_and_on_what(place: Place) -> None:
    seen = place.provisioner.observe(place.ready())

    assert seen.node == place.provisioner.check().nodes[0].name
    assert (seen.gpu_type, seen.gpu_indices) == ("", [])


def test_one_that_holds_no_gpu_has_nothing_to_free_by_sleeping(place: Place) -> None:
    handle = place.ready()

    assert not place.provisioner.observe(handle).can_sleep
    assert not place.provisioner.sleep(handle)
    place.provisioner.wake(handle)

    assert place.provisioner.observe(handle).phase is Phase.READY


def test_an_unknown_replica_is_gone(place: Place) -> None:
    stranger = Handle(provisioner="local", replica_id="none", instance_id="none", generation=1)

    assert place.provisioner.observe(stranger).phase is Phase.GONE
    place.provisioner.stop(stranger)
    assert not place.provisioner.sleep(stranger)
    place.provisioner.wake(stranger)
    place.provisioner.adapters(stranger, [place.adapter_spec()])
    place.provisioner.delete(stranger)


def test_what_cannot_run_here_is_refused_with_a_reason(place: Place) -> None:
    with pytest.raises(Rejected) as refused:
        place.provisioner.ensure(place.spec(gpu_count=64))

    assert refused.value.reason is Reason.INSUFFICIENT_CAPACITY and refused.value.message
    assert place.provisioner.offers(place.spec(gpu_count=64)) == []


def test_an_unknown_engine_is_refused(place: Place) -> None:
    with pytest.raises(Rejected) as refused:
        place.provisioner.ensure(place.spec(engine="abacus"))

    assert refused.value.reason is Reason.BAD_ARGUMENTS


def test_what_can_run_here_is_offered(place: Place) -> None:
    (offer,) = place.provisioner.offers(place.spec())

    assert offer.variant == "cpu" and offer.node


def test_a_place_describes_its_machines(place: Place) -> None:
    health = place.provisioner.check()

    assert health.ok
    assert health.nodes[0].memory_bytes > 0 and health.nodes[0].cpu_count > 0


def test_each_stage_is_an_event_with_a_sentence(place: Place) -> None:
    events = place.provisioner.events(place.ready())

    assert [e.reason for e in events][-1] == Phase.READY
    assert Stage.STARTING in [e.reason for e in events]
    assert all(e.message for e in events)
    assert [e.at for e in events] == sorted(e.at for e in events)


def test_logs_can_be_followed(place: Place) -> None:
    handle = place.ready()

    start = place.provisioner.logs(handle, offset=0, limit=5)
    rest = place.provisioner.logs(handle, offset=start.next_offset)

    assert len(start.text) == 5 == start.next_offset
    whole = place.provisioner.logs(handle, offset=0)
    assert whole.text.startswith(start.text + rest.text)
    assert place.provisioner.logs(handle, offset=whole.next_offset + 99).text == ""


def test_adapters_come_and_go_while_a_replica_runs(place: Place) -> None:
    handle = place.ready(settings=LORA)
    first, second = place.adapter_spec(), place.adapter_spec("other")
    one, both = {first.adapter_id: LOADED}, [first, second]

    for _ in range(2):  # asked again, nothing more happens
        place.provisioner.adapters(handle, [first])
        node.wait_until(lambda: place.adapters(handle) == one)
    place.provisioner.adapters(handle, both)
    node.wait_until(lambda: place.adapters(handle) == one | {second.adapter_id: LOADED})
    place.provisioner.adapters(handle, [first])
    node.wait_until(lambda: place.adapters(handle) == one)
    place.provisioner.adapters(handle, [])
    node.wait_until(lambda: place.adapters(handle) == {})

    assert place.provisioner.observe(handle).phase is Phase.READY


def test_adapters_asked_for_at_the_start_are_there_when_it_is_ready(place: Place) -> None:
    handle = place.provisioner.ensure(place.spec(settings=LORA))
    spec = place.adapter_spec()
    place.provisioner.adapters(handle, [spec])
    assert place.adapters(handle) == {spec.adapter_id: AdapterPhase.LOADING}

    node.wait_for(place.provisioner, handle, Phase.READY)

    node.wait_until(lambda: place.adapters(handle) == {spec.adapter_id: LOADED})


def test_a_name_can_go_to_another_adapter_in_one_breath(place: Place) -> None:
    handle = place.ready(settings=LORA)
    before, after = place.adapter_spec(), place.adapter_spec()
    place.provisioner.adapters(handle, [before])
    node.wait_until(lambda: place.adapters(handle) == {before.adapter_id: LOADED})

    place.provisioner.adapters(handle, [after])

    node.wait_until(lambda: place.adapters(handle) == {after.adapter_id: LOADED})


def test_without_room_an_adapter_fails_and_the_replica_does_not(place: Place) -> None:
    handle, spec = place.ready(), place.adapter_spec()

    place.provisioner.adapters(handle, [spec])

    node.wait_until(lambda: place.adapters(handle) == {spec.adapter_id: AdapterPhase.FAILED})
    (seen,) = place.provisioner.observe(handle).adapters
    assert seen.message
    assert place.provisioner.observe(handle).phase is Phase.READY
    place.provisioner.adapters(handle, [])
    node.wait_until(lambda: place.adapters(handle) == {})


def test_one_that_has_ended_has_no_adapters(place: Place) -> None:
    handle, spec = place.ready(settings=LORA), place.adapter_spec()
    place.provisioner.adapters(handle, [spec])
    node.wait_until(lambda: place.adapters(handle) == {spec.adapter_id: LOADED})

    place.provisioner.stop(handle, grace=5)

    node.wait_until(lambda: place.provisioner.observe(handle).phase is Phase.EXITED)
    place.provisioner.adapters(handle, [spec])
    assert place.adapters(handle) == {}


def test_a_place_out_of_reach_says_so_and_nothing_else(place: Place) -> None:
    spec = place.spec()
    handle = Handle(
        provisioner="local", replica_id=spec.replica_id, instance_id=spec.instance_id, generation=1
    )

    for call in (
        place.unreachable.check,
        place.unreachable.list,
        place.unreachable.observe_all,
        lambda: place.unreachable.ensure(spec),
        lambda: place.unreachable.observe(handle),
        lambda: place.unreachable.adapters(handle, []),
        lambda: place.unreachable.delete(handle),
    ):
        with pytest.raises(Unavailable):
            call()
