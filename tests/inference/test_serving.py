"""What is billed as GPU time: from ready to not ready, never twice, and nothing of a start."""

from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import Organization, User
from inference.lifecycle import InstanceState
from inference.models import Instance, Node, Replica, ServingInterval
from inference.provisioners.base import Gpu, Phase, Reason
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from tests.inference.making import a_wish, rounds


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner(gpus=4)


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


@pytest.fixture
def instance(acme: Organization, alice: User, reconciler: Reconciler) -> Instance:
    return rounds(reconciler, a_wish(acme, alice))


def serving(instance: Instance) -> Replica:
    return instance.replicas.get(state=Replica.State.READY)


def begun(instance: Instance, ago: timedelta) -> datetime:
    """Let its open interval have begun so long ago."""
    began = timezone.now() - ago
    instance.served.filter(ended_at=None).update(started_at=began)
    return began


def test_it_begins_when_the_gateway_may_send_requests_and_not_before(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = a_wish(acme, alice)
    reconciler.round()
    reconciler.round()
    assert instance.replicas.exists()
    assert not instance.served.exists()
    rounds(reconciler, instance)
    interval = instance.served.get()
    assert interval.replica == serving(instance)
    assert interval.started_at == interval.replica.ready_at
    assert interval.ended_at is None


def test_it_ends_when_a_person_stops_it_not_when_the_engine_is_gone(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    instance.request_stop(alice)
    reconciler.round()
    interval = instance.served.get()
    assert interval.ended_at is not None
    rounds(reconciler, instance)
    assert instance.served.get() == interval
    assert instance.served.get().ended_at == interval.ended_at


def test_after_a_crash_nothing_is_owed(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    """The engine died a minute before anybody looked."""
    begun(instance, timedelta(minutes=10))
    replica = serving(instance)
    place.crash(str(replica.id), exit_code=-9)
    died = timezone.now() - timedelta(minutes=1)
    place.replicas[str(replica.id)].ended_at = died
    rounds(reconciler, instance)
    first, second = instance.served.order_by("started_at")
    assert first.ended_at == died
    assert second.started_at > died
    assert second.replica != replica


def test_a_clock_that_is_ahead_bills_no_future(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    replica = serving(instance)
    place.crash(str(replica.id))
    place.replicas[str(replica.id)].ended_at = timezone.now() + timedelta(hours=1)
    reconciler.round()
    ended = instance.served.get().ended_at
    assert ended is not None
    assert ended <= timezone.now()


def test_a_clock_that_is_behind_bills_nothing_negative(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    replica = serving(instance)
    place.crash(str(replica.id))
    place.replicas[str(replica.id)].ended_at = timezone.now() - timedelta(days=1)
    reconciler.round()
    interval = instance.served.get()
    assert interval.ended_at == interval.started_at


def test_what_a_machine_lost_is_billed_until_the_machine_was_last_reached(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    begun(instance, timedelta(hours=2))
    reached = timezone.now() - timedelta(hours=1)
    Node.objects.update(seen_at=reached)
    del place.replicas[str(serving(instance).id)]
    rounds(reconciler, instance)
    lost = instance.served.order_by("started_at").first()
    assert lost is not None
    assert lost.ended_at == reached
    assert instance.replicas.filter(end_reason=Reason.NODE_LOST).exists()


def test_while_it_does_not_answer_nothing_is_owed(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    replica = serving(instance)
    place.silence(str(replica.id))
    assert rounds(reconciler, instance).state == InstanceState.DEGRADED
    assert not instance.served.filter(ended_at=None).exists()
    place.silence(str(replica.id), over=True)
    assert rounds(reconciler, instance).state == InstanceState.READY
    first, second = instance.served.order_by("started_at")
    assert first.replica == second.replica == replica
    assert first.ended_at is not None
    assert second.started_at >= first.ended_at


def test_a_place_out_of_reach_ends_nothing_that_serves(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    place.unreachable = True
    rounds(reconciler, instance)
    place.unreachable = False
    rounds(reconciler, instance)
    assert instance.served.get().ended_at is None


def test_a_crash_loop_costs_nothing(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = a_wish(acme, alice)
    for _ in range(9):
        rounds(reconciler, instance, 1)
        for id, replica in place.replicas.items():
            if replica.phase is not Phase.EXITED:
                place.crash(id)
    rounds(reconciler, instance)
    assert instance.state == InstanceState.FAILED
    assert not instance.served.exists()


def test_each_replica_has_its_own_with_the_machines_gpus(
    acme: Organization, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance = rounds(reconciler, a_wish(acme, alice, gpu_count=2, replica_count=2))
    intervals = instance.served.order_by("replica__index")
    assert [i.gpu_count for i in intervals] == [2, 2]
    assert {i.gpu_type for i in intervals} == {"Fake GPU"}
    held = [gpu for i in intervals for gpu in i.replica.gpu_indices]
    assert sorted(held) == [0, 1, 2, 3]


def test_a_clock_that_was_put_back_does_not_stop_it_from_serving(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    replica = serving(instance)
    place.silence(str(replica.id))
    rounds(reconciler, instance)
    ahead = timezone.now() + timedelta(minutes=5)
    instance.served.update(ended_at=ahead)
    place.silence(str(replica.id), over=True)
    assert rounds(reconciler, instance).state == InstanceState.READY
    assert instance.served.get(ended_at=None).started_at == ahead


def test_the_database_refuses_to_bill_a_second_twice(instance: Instance) -> None:
    interval = instance.served.get()
    double = ServingInterval(
        organization=instance.organization,
        instance=instance,
        replica=interval.replica,
        started_at=interval.started_at + timedelta(seconds=1),
        ended_at=interval.started_at + timedelta(seconds=2),
    )
    with pytest.raises(IntegrityError), transaction.atomic():
        double.save()


def test_gpus_of_a_place_are_held_one_by_one(place: FakeProvisioner) -> None:
    gpus = place.check().nodes[0].gpus
    assert [gpu.index for gpu in gpus] == [0, 1, 2, 3]
    assert all(isinstance(gpu, Gpu) and gpu.replica_id == "" for gpu in gpus)
