"""The reconciler against the in-memory place: what people want comes about, whatever happens."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from accounts.models import Organization, User
from inference import demo, samples
from inference.lifecycle import ATTEMPTS, Desired, InstanceState
from inference.models import Instance, InstanceEvent, MetricSample, Node, Replica
from inference.provisioners.base import Figures, Phase, Reason
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler, crashes


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner()


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


def ask(acme: Organization, alice: User, **changes: object) -> Instance:
    wanted: dict[str, object] = {
        "name": "demo",
        "model_source": "bundled",
        "model_id": demo.MODEL_ID,
        "model_revision": demo.model_revision(),
    }
    return Instance.request(acme, alice, **(wanted | changes))  # type: ignore[arg-type]


def rounds(reconciler: Reconciler, instance: Instance, count: int = 12) -> Instance:
    """As many looks as it takes, with no waiting for backoff in between."""
    for _ in range(count):
        Instance.objects.filter(id=instance.id, retry_at__isnull=False).update(
            retry_at=timezone.now() - timedelta(seconds=1)
        )
        reconciler.round()
    instance.refresh_from_db()
    return instance


def test_a_requested_instance_becomes_ready(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    assert instance.state == InstanceState.READY
    replica = instance.replicas.get()
    assert (replica.state, replica.address) == ("ready", "unix:/nowhere/engine.sock")
    assert (replica.probe_prompt_tokens, replica.context_length) == (6, 2048)
    assert Node.objects.get().name == "fake"
    reasons = list(InstanceEvent.objects.order_by("id").values_list("reason", flat=True))
    assert reasons == ["requested", "queued", "starting", "warming", "ready"]


def test_the_gateway_gets_no_replica_before_it_is_ready(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = ask(acme, alice)
    reconciler.round()
    replica = instance.replicas.get()
    assert (replica.state, replica.address) == ("starting", "")


def test_a_stopped_instance_holds_nothing_and_starts_again(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    assert instance.request_stop(alice)
    assert not instance.request_stop(alice)
    assert rounds(reconciler, instance).state == InstanceState.STOPPED
    assert not instance.replicas.exclude(state="gone").exists()
    assert instance.request_start(alice)
    assert rounds(reconciler, instance).state == InstanceState.READY


def test_a_restart_ends_the_old_engine_before_the_new_one_begins(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    instance.request_restart(alice)
    for _ in range(12):
        reconciler.round()
        assert sum(r.phase != Phase.EXITED for r in place.replicas.values()) <= 1
    assert sorted(instance.replicas.values_list("generation", "state")) == [
        (1, "gone"),
        (2, "ready"),
    ]


def test_a_deleted_instance_leaves_nothing_at_the_place(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    instance.request_delete(alice)
    assert rounds(reconciler, instance).deleted_at is not None
    assert place.replicas == {}
    assert not instance.request_start(alice)
    assert ask(acme, alice).name == instance.name  # the name is free again


def test_a_crashed_engine_comes_back_by_itself(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    place.crash(str(instance.replicas.get().id), exit_code=-9)
    reconciler.round()
    assert not instance.replicas.filter(state="ready").exists()
    assert rounds(reconciler, instance).state == InstanceState.READY
    assert instance.replicas.filter(exit_code=-9, end_reason=Reason.CRASHED).exists()


def test_a_start_that_keeps_failing_stops_with_its_reason(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = ask(acme, alice)
    for _ in range(ATTEMPTS * 3):
        rounds(reconciler, instance, 1)
        for replica in Replica.objects.filter(state="starting"):
            place.crash(str(replica.id), reason=Reason.LOAD_TIMEOUT)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == (InstanceState.FAILED, Reason.LOAD_TIMEOUT)
    assert instance.replicas.count() == ATTEMPTS
    assert instance.request_start(alice)
    assert rounds(reconciler, instance).state == InstanceState.READY


def kill(place: FakeProvisioner, instance: Instance) -> None:
    """As soon as it is ready: the one engine that it has."""
    place.crash(str(instance.replicas.get(state=Replica.State.READY).id), exit_code=-9)


def test_an_engine_that_dies_again_and_again_stops_with_the_reason_until_somebody_asks(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = ask(acme, alice)
    for _ in range(crashes.MOST):
        assert rounds(reconciler, instance).state == InstanceState.READY
        kill(place, instance)
    assert rounds(reconciler, instance).state == InstanceState.FAILED
    assert instance.message.startswith("It started and died 6 times within 1 min. ")
    assert instance.replicas.count() == crashes.MOST
    assert not instance.served.filter(ended_at=None).exists()
    assert instance.revisions.get().failed_at is None  # it has served, so it can

    assert instance.request_start(alice)
    for _ in range(crashes.MOST - 1):  # afresh
        assert rounds(reconciler, instance).state == InstanceState.READY
        kill(place, instance)
    assert rounds(reconciler, instance).state == InstanceState.READY


def test_an_engine_that_serves_in_between_is_killed_twenty_times_and_back_at_the_next_look(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    """P11, as the reconciler has it: time is moved, so that it has served for four minutes."""
    instance = rounds(reconciler, ask(acme, alice))
    for _ in range(20):
        kill(place, instance)
        reconciler.round()
        instance.refresh_from_db()
        assert instance.retry_at is None
        # The next one is asked for at the look that sees the last one dead.
        fresh = instance.replicas.get(state=Replica.State.STARTING)
        assert str(fresh.id) in place.replicas
        assert rounds(reconciler, instance, 5).state == InstanceState.READY
        ago = timedelta(minutes=4)
        instance.replicas.exclude(ended_at=None).update(ended_at=F("ended_at") - ago)
    assert instance.replicas.count() == 21
    assert instance.served.count() == 21


def test_one_whose_answer_was_not_kept_and_that_is_lost_is_not_started_a_second_time(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = ask(acme, alice)
    reconciler.round()
    Replica.objects.update(handle=None)  # killed between the two
    assert rounds(reconciler, instance).state == InstanceState.READY
    first = instance.replicas.get()
    assert first.handle is not None
    del place.replicas[str(first.id)]

    reconciler.round()

    first.refresh_from_db()
    assert (first.state, first.end_reason) == (Replica.State.GONE, Reason.NODE_LOST)
    assert str(first.id) not in place.replicas
    assert not instance.served.filter(ended_at=None).exists()


def test_the_controller_sees_between_its_rounds_that_an_engine_has_died(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    reconciler.round()
    assert not reconciler.stirs()
    kill(place, instance)
    assert reconciler.stirs()
    place.unreachable = True
    assert not reconciler.stirs()


def test_what_cannot_succeed_is_not_tried_again(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = ask(acme, alice)
    reconciler.round()
    place.crash(str(instance.replicas.get().id), reason=Reason.OUT_OF_MEMORY)
    assert rounds(reconciler, instance).state == InstanceState.FAILED
    assert instance.replicas.count() == 1


def test_without_room_it_waits_in_line(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice, gpu_count=1))
    assert (instance.state, instance.reason) == (
        InstanceState.PROVISIONING,
        Reason.INSUFFICIENT_CAPACITY,
    )
    assert "GPU" in instance.message
    place.gpus = 1
    assert rounds(reconciler, instance).state == InstanceState.READY
    assert instance.replicas.count() == 1


def test_an_unreachable_place_changes_nothing(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    place.unreachable = True
    rounds(reconciler, instance)
    assert (instance.state, instance.reason) == ("ready", Reason.BACKEND_UNREACHABLE)
    assert instance.replicas.get().state == "ready"
    place.unreachable = False
    assert rounds(reconciler, instance).message == ""


def test_engines_that_nobody_knows_are_removed(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    instance.events.all().delete()
    instance.served.all().delete()
    instance.replicas.all().delete()
    instance.delete()
    for _ in range(3):
        reconciler.round()
        for handle in place.list():
            place.observe(handle)
    assert place.replicas == {}


def test_a_crash_after_the_row_starts_no_second_engine(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    """The reconciler dies after the place accepted the replica and before that was saved."""
    instance = ask(acme, alice)
    reconciler.round()
    instance.replicas.update(handle=None)
    rounds(reconciler, instance)
    assert len(place.replicas) == 1
    assert instance.state == InstanceState.READY
    assert instance.desired == Desired.RUNNING


def test_what_an_engine_counts_is_taken_down_by_the_rounds(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    instance = rounds(reconciler, ask(acme, alice))
    replica = instance.replicas.get()
    place.compute(str(replica.id), Figures(process="fake", completion_tokens=42, running=1))
    Replica.objects.update(sampled_at=timezone.now() - samples.EVERY)

    rounds(reconciler, instance, 1)

    minute = MetricSample.objects.get(instance=instance, span=MetricSample.Span.MINUTE)
    assert (minute.completion_tokens, minute.running_max) == (42, 1)
