"""Another revision: it comes in beside the one that serves, or in its place, and can be undone."""

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from inference.engines import ENGINES
from inference.lifecycle import ATTEMPTS, InstanceState
from inference.models import Instance, Node, Quota, Replica
from inference.models.changes import Effect
from inference.provisioners.base import Phase, Reason
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from tests.inference.making import a_wish, rounds


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner(gpus=8)


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


@pytest.fixture
def instance(acme: Organization, alice: User, reconciler: Reconciler) -> Instance:
    """One that serves its first revision."""
    return rounds(reconciler, a_wish(acme, alice))


def serving(instance: Instance) -> list[tuple[int, int]]:
    """Revision and index of each replica that the gateway sends requests to."""
    ready = instance.replicas.filter(state=Replica.State.READY)
    return sorted(ready.values_list("revision__number", "index"))


def fail_what_starts(place: FakeProvisioner, reason: Reason) -> None:
    for replica in Replica.objects.filter(state=Replica.State.STARTING):
        if str(replica.id) in place.replicas:
            place.crash(str(replica.id), reason=reason)


def test_what_is_asked_for_is_the_first_revision(instance: Instance) -> None:
    revision = instance.revisions.get()
    assert (revision.number, revision.restores, revision.failed_at) == (1, None, None)
    assert revision.model_revision == instance.model_revision
    assert revision.first_ready_at is not None
    assert instance.replicas.get().revision == revision


def test_a_change_is_the_next_revision_and_serves_without_a_gap(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    revision = instance.change(alice, settings={"max_model_len": 256})
    assert (revision.number, revision.settings) == (2, {"max_model_len": 256})
    assert instance.revisions.get(number=1).settings == {}
    for _ in range(12):
        reconciler.round()
        assert serving(instance)
    assert serving(instance) == [(2, 0)]
    assert instance.replicas.exclude(state=Replica.State.GONE).count() == 1


def test_what_is_started_is_what_the_replicas_revision_says(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.change(alice, settings={"max_model_len": 256})
    rounds(reconciler, instance)
    replica = instance.replicas.get(state=Replica.State.READY)
    assert place.replicas[str(replica.id)].spec.settings == {"max_model_len": 256}


def test_several_replicas_are_replaced_one_by_one(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, a_wish(acme, alice, replica_count=3))
    assert serving(instance) == [(1, 0), (1, 1), (1, 2)]
    instance.change(alice, settings={"max_model_len": 256})
    for _ in range(40):
        reconciler.round()
        assert len(serving(instance)) >= 3
        assert sum(r.phase is not Phase.EXITED for r in place.replicas.values()) <= 5
    assert serving(instance) == [(2, 0), (2, 1), (2, 2)]


def test_a_change_that_changes_nothing_is_refused(instance: Instance, alice: User) -> None:
    instance.change(alice, settings={"max_model_len": 256})
    with pytest.raises(ValidationError, match="how it is already"):
        instance.change(alice, settings={"max_model_len": 256})
    with pytest.raises(ValidationError):
        instance.roll_back(alice, 2)
    assert instance.revisions.count() == 2


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"settings": {"max_model_len": "long"}}, "settings"),
        ({"settings": {"rm": "-rf"}}, "settings"),
        ({"engine": "abacus"}, "engine"),
        ({"gpu_count": -1}, "gpu_count"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(
    instance: Instance, alice: User, wish: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        instance.change(alice, **wish)  # type: ignore[arg-type]
    assert field in refused.value.message_dict
    assert instance.revisions.count() == 1
    assert Instance.objects.get().generation == instance.generation


def test_going_back_is_a_new_revision_that_says_what_it_restores(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    instance.change(alice, settings={"max_model_len": 256})
    back = instance.roll_back(alice, 1)
    assert (back.number, back.restores, back.settings) == (3, 1, {})
    rounds(reconciler, instance)
    assert serving(instance) == [(3, 0)]


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.CRASHED])
def test_one_that_cannot_start_leaves_the_old_one_serving_and_says_why(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner, reason: Reason
) -> None:
    instance.change(alice, settings={"max_model_len": 256})
    for _ in range(ATTEMPTS * 3):
        rounds(reconciler, instance, 1)
        fail_what_starts(place, reason)
        assert serving(instance) == [(1, 0)]
    rounds(reconciler, instance)
    assert (instance.state, instance.reason) == (InstanceState.READY, "")
    assert instance.rollout_reason == reason
    assert instance.rollout_message
    revision = instance.revisions.get(number=2)
    assert (revision.failed_reason, revision.first_ready_at) == (reason, None)
    assert instance.is_settled
    tries = instance.replicas.filter(revision=revision)
    assert tries.count() == (1 if reason == Reason.OUT_OF_MEMORY else ATTEMPTS)
    assert all(replica.start_log and replica.end_message for replica in tries)


def test_a_person_may_have_it_tried_again(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.change(alice, settings={"max_model_len": 256})
    rounds(reconciler, instance, 2)
    fail_what_starts(place, Reason.OUT_OF_MEMORY)
    rounds(reconciler, instance)
    assert instance.request_start(alice)
    assert serving(instance) == [(1, 0)]
    rounds(reconciler, instance)
    assert serving(instance) == [(2, 0)]
    assert instance.rollout_reason == ""
    assert instance.revisions.get(number=2).failed_at is None


def test_in_its_place_means_that_never_two_run(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.change(alice, settings={"max_model_len": 256}, at_once=True)
    for _ in range(12):
        reconciler.round()
        assert sum(r.phase is not Phase.EXITED for r in place.replicas.values()) <= 1
    assert serving(instance) == [(2, 0)]


def test_what_served_before_comes_back_if_its_successor_cannot_start(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.change(alice, settings={"max_model_len": 256}, at_once=True)
    for _ in range(8):
        rounds(reconciler, instance, 1)
        for replica in Replica.objects.filter(state=Replica.State.STARTING, revision__number=2):
            if str(replica.id) in place.replicas:
                place.crash(str(replica.id), reason=Reason.OUT_OF_MEMORY)
    rounds(reconciler, instance)
    assert serving(instance) == [(3, 0)]
    assert instance.revisions.get(number=3).restores == 1
    assert (instance.state, instance.settings) == (InstanceState.READY, {})
    assert instance.events.filter(reason="rolled_back", by=None).count() == 1


def test_without_room_beside_the_old_one_it_waits_and_says_so(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    place.gpus = 1
    instance = rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    instance.change(alice, settings={"max_model_len": 256})
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0)]
    assert (instance.state, instance.rollout_reason) == ("ready", Reason.INSUFFICIENT_CAPACITY)
    assert "GPU" in instance.rollout_message
    place.gpus = 2
    rounds(reconciler, instance)
    assert serving(instance) == [(2, 0)]
    assert instance.rollout_reason == ""


def test_a_stopped_one_changes_and_stays_stopped(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    instance.request_stop(alice)
    rounds(reconciler, instance)
    instance.change(alice, settings={"max_model_len": 256})
    assert rounds(reconciler, instance).state == InstanceState.STOPPED
    instance.request_start(alice)
    rounds(reconciler, instance)
    assert serving(instance) == [(2, 0)]


def test_what_needs_no_restart_starts_nothing_anew(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    first = instance.replicas.get()
    instance.set_queue(5, 10)
    instance.set_sleep(alice, 30)
    instance.set_replicas(alice, 2)
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0), (1, 1)]
    assert instance.replicas.filter(id=first.id, state=Replica.State.READY).exists()
    instance.set_replicas(alice, 1)
    rounds(reconciler, instance)
    assert instance.replicas.get(state=Replica.State.READY) == first
    assert (instance.revision, instance.generation) == (1, 1)


def test_a_replica_that_cannot_start_beside_others_is_said_and_left_to_a_person(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, a_wish(acme, alice))
    instance.set_replicas(alice, 2)
    rounds(reconciler, instance, 2)
    fail_what_starts(place, Reason.OUT_OF_MEMORY)
    rounds(reconciler, instance)
    assert (instance.state, instance.reason) == (InstanceState.DEGRADED, Reason.OUT_OF_MEMORY)
    assert instance.is_settled
    assert serving(instance) == [(1, 0)]
    assert instance.revisions.get().failed_at is None  # it can start; another of it cannot


def test_one_more_replica_than_there_is_room_for_says_so_and_comes_when_there_is(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    place.gpus = 1
    instance = rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    instance.set_replicas(alice, 2)
    rounds(reconciler, instance, 1)
    assert (instance.state, instance.rollout_reason) == (InstanceState.DEGRADED, "")
    assert instance.reason == Reason.INSUFFICIENT_CAPACITY
    rounds(reconciler, instance)
    assert "GPU" in instance.message
    assert serving(instance) == [(1, 0)]
    place.gpus = 2
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0), (1, 1)]


def test_it_is_said_beforehand_what_a_change_does(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    shorter = {"settings": {"max_model_len": 256}}
    assert instance.effect_of(shorter) == Effect.ROLLS
    assert instance.effect_of(shorter, at_once=True) == Effect.INTERRUPTS
    assert instance.effect_of({"settings": {}}) == Effect.NONE
    assert instance.effect_of({"replica_count": 3, "sleep_after_minutes": 5}) == Effect.NONE
    with pytest.raises(ValidationError):
        instance.effect_of({"settings": {"max_model_len": "long"}})
    instance.request_stop(alice)
    assert instance.effect_of(shorter) == Effect.NEXT_START


def test_two_revisions_are_compared_in_words(instance: Instance, alice: User) -> None:
    first = instance.revisions.get()
    second = instance.change(alice, settings={"max_model_len": 256}, gpu_count=2)
    label = next(s.label for s in ENGINES["vllm"].settings if s.name == "max_model_len")
    assert second.differences(first) == [("GPUs", "0", "2"), (label, "not set", "256")]
    assert first.differences(second) == [("GPUs", "2", "0"), (label, "256", "not set")]
    assert first.differences(first) == []
    switch = next(s for s in ENGINES["vllm"].settings if s.kind == "bool")
    default = bool(switch.default)
    instance.change(alice, settings={"max_model_len": 256, switch.name: not default})
    third = instance.revisions.get(number=3)
    was, now = ("on", "off") if default else ("off", "on")
    assert third.differences(second) in (
        [(switch.label, was, now)],
        [(switch.label, "not set", now)],
    )


def test_a_quota_holds_for_changes_too(instance: Instance, acme: Organization, alice: User) -> None:
    Quota.objects.create(organization=acme, gpus=2)
    instance.change(alice, gpu_count=2)
    with pytest.raises(ValidationError):
        instance.change(alice, gpu_count=3)
    with pytest.raises(ValidationError):
        instance.set_replicas(alice, 2)
    instance.refresh_from_db()
    assert (instance.gpu_count, instance.replica_count) == (2, 1)


def test_nothing_large_comes_in_before_an_operator_has_agreed(
    instance: Instance, acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    Quota.objects.create(organization=acme, approval_above_gpus=1)
    instance.change(alice, gpu_count=4)
    rounds(reconciler, instance)
    assert instance.approval == Instance.Approval.PENDING
    assert serving(instance) == [(1, 0)]
    assert instance.rollout_message == "Waiting for an operator's approval."
    assert instance.decide_approval(alice, granted=True)
    rounds(reconciler, instance)
    assert serving(instance) == [(2, 0)]


def test_more_replicas_may_need_an_operators_word_and_fewer_do_not(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    Quota.objects.create(organization=acme, approval_above_gpus=1)
    instance = rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    instance.set_replicas(alice, 3)
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0)]
    assert (instance.approval, instance.message) == (
        Instance.Approval.PENDING,
        "Waiting for an operator's approval.",
    )
    instance.set_replicas(alice, 1)
    assert rounds(reconciler, instance).approval == ""
    assert instance.state == InstanceState.READY


def test_a_closed_machine_takes_nothing_new_and_a_drained_one_ends_what_runs(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    node = Node.objects.get()
    node.cordon()
    instance.set_replicas(alice, 2)
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0)]
    assert "an operator has closed them" in instance.message
    node.drain()
    rounds(reconciler, instance)
    assert serving(instance) == []
    assert instance.state == InstanceState.PROVISIONING
    assert instance.replicas.get(index=0).end_reason == Reason.PREEMPTED
    node.open()
    rounds(reconciler, instance)
    assert serving(instance) == [(1, 0), (1, 1)]


def test_how_long_a_start_takes_is_measured_without_the_wait_for_room(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    place.gpus = 0
    instance = rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    hours_ago = timezone.now() - timedelta(hours=3)
    instance.replicas.update(created_at=hours_ago)
    place.gpus = 1
    rounds(reconciler, instance)
    assert instance.typical_start_seconds is not None
    assert instance.typical_start_seconds < 60


def last_start(client: Client, instance: Instance) -> str:
    page = client.get(instance.get_absolute_url()).content.decode()
    return page.partition('id="last-start"')[2].partition("</section>")[0]


def test_the_last_start_of_a_revision_that_could_not_come_in_is_not_told_as_ready(
    instance: Instance,
    alice: User,
    alice_client: Client,
    reconciler: Reconciler,
    place: FakeProvisioner,
) -> None:
    assert "Ready" in last_start(alice_client, instance)
    instance.change(alice, settings={"max_model_len": 256})
    rounds(reconciler, instance, 3)
    fail_what_starts(place, Reason.OUT_OF_MEMORY)
    rounds(reconciler, instance)

    panel = last_start(alice_client, instance)

    assert instance.state == InstanceState.READY
    assert "Failed" in panel and "Ready" not in panel
    assert instance.events.filter(reason="start_failed").get().data == {"code": "out_of_memory"}
    instance.request_start(alice)
    rounds(reconciler, instance)
    panel = last_start(alice_client, instance)
    assert "Ready" in panel and "Failed" not in panel
