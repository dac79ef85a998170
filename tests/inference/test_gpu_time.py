"""GPU seconds: each that served is charged once, at the price that held, and no other."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import Organization, User
from billing import gpu, wallet
from billing.ledger import Kind
from billing.models import (
    Allowance,
    Balance,
    GpuUsage,
    LedgerTransaction,
    PriceBook,
    PriceVersion,
    Terms,
)
from inference import gpu_time
from inference.gpu_time import NOTICED, bill
from inference.models import Instance, Node, ServingInterval
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from tests.inference.making import a_wish, rounds

SECOND = 1_000_000  # nano-units for a GPU second
RATES = {"gpu_second": 3600 * SECOND}
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return rounds(Reconciler(FakeProvisioner(gpus=4)), a_wish(acme, alice, gpu_count=2))


@pytest.fixture
def interval(instance: Instance) -> ServingInterval:
    """Of 2 GPUs, from noon on; its price has been there since long."""
    interval = instance.served.get()
    interval.started_at = BEGAN
    interval.save()
    book = PriceBook.of_house("USD")
    version = PriceVersion.objects.create(book=book, effective_at=BEGAN - timedelta(days=99))
    version.rates.create(meter="gpu_second", nano=RATES["gpu_second"])
    return interval


def seen(moment: datetime) -> datetime:
    """The machine was last reached then, so that it vouches for what was a while before."""
    Node.objects.update(seen_at=moment + NOTICED)
    return moment + NOTICED


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def charged() -> int:
    """In GPU seconds, by the ledger; books and rows must agree."""
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0
    nano = sum(Balance.objects.filter(account__kind="revenue").values_list("nano", flat=True))
    assert nano == sum(GpuUsage.objects.values_list("cost_nano", flat=True))
    return nano // SECOND


def test_each_minute_is_charged_once(interval: ServingInterval) -> None:
    assert bill(seen(at(60))) == 2 * 60 * SECOND
    assert bill(seen(at(60))) == 0
    bill(seen(at(125.9)))
    assert charged() == 2 * 125
    keys = LedgerTransaction.objects.filter(kind=Kind.GPU).order_by("id").values_list("key", "id")
    assert [key for key, _ in keys] == [f"gpu:{interval.id}:0", f"gpu:{interval.id}:60"]
    first, second = GpuUsage.objects.order_by("from_second")
    assert [(u.from_second, u.seconds) for u in (first, second)] == [(0, 60), (60, 65)]
    assert second.transaction_id == keys[1][1]
    assert (second.gpu_type, second.gpu_count, second.currency) == ("Fake GPU", 2, "USD")
    assert second.started_at == at(60)


def test_part_of_a_second_waits_and_at_the_end_is_given_away(interval: ServingInterval) -> None:
    bill(seen(at(0.9)))
    assert charged() == 0
    bill(seen(at(1.1)))
    assert charged() == 2
    ServingInterval.objects.update(ended_at=at(10.9))
    bill(at(60))
    interval.refresh_from_db()
    assert (charged(), interval.billed, interval.billed_seconds) == (20, True, 10)
    assert bill(at(999)) == 0


def test_an_hour_missed_is_charged_at_once(interval: ServingInterval) -> None:
    ServingInterval.objects.update(ended_at=at(3600))
    bill(at(90_000))
    assert charged() == 2 * 3600


def test_what_its_machine_does_not_vouch_for_waits(interval: ServingInterval) -> None:
    seen(at(100))
    bill(at(5000))
    assert charged() == 2 * 100
    Node.objects.all().delete()
    bill(at(6000))
    assert charged() == 2 * 100
    ServingInterval.objects.update(ended_at=at(200))
    bill(at(6000))
    assert charged() == 2 * 200


def test_an_interval_never_ends_before_what_was_charged(instance: Instance, alice: User) -> None:
    """The machine's clock is behind: it says that the engine ended long ago."""
    place = FakeProvisioner(gpus=4)
    reconciler = Reconciler(place)
    instance = rounds(reconciler, a_wish(instance.organization, alice, name="other"))
    interval = instance.served.get()
    ServingInterval.objects.filter(id=interval.id).update(
        started_at=timezone.now() - timedelta(seconds=100), billed_seconds=70
    )
    replica = str(interval.replica_id)
    place.crash(replica)
    place.replicas[replica].ended_at = timezone.now() - timedelta(days=1)
    reconciler.round()
    interval.refresh_from_db()
    assert interval.ended_at == interval.started_at + timedelta(seconds=70)


def test_a_clock_that_is_put_back_charges_nothing_twice(interval: ServingInterval) -> None:
    bill(seen(at(100)))
    bill(seen(at(50)))
    bill(seen(at(101)))
    assert charged() == 2 * 101


def test_nothing_is_charged_for_a_start_for_sleep_or_after_the_end(
    acme: Organization, alice: User, interval: ServingInterval, instance: Instance
) -> None:
    other = a_wish(acme, alice, name="starting")
    instance.request_sleep(alice)
    Reconciler(FakeProvisioner(gpus=4)).round()
    ended = ServingInterval.objects.get(id=interval.id).ended_at
    assert ended is not None
    bill(timezone.now() + timedelta(hours=9))
    assert charged() == 2 * int((ended - BEGAN).total_seconds())
    assert not other.served.exists()


def test_what_holds_when_a_second_begins_is_its_price(
    interval: ServingInterval, acme: Organization
) -> None:
    book = PriceBook.of_house("USD")
    for moment, factor in ((at(10), 2), (at(20.5), 3)):
        version = PriceVersion.objects.create(book=book, effective_at=moment)
        version.rates.create(meter="gpu_second", nano=factor * RATES["gpu_second"])
    for_others = PriceVersion.objects.create(book=book, effective_at=at(5), model="other")
    for_others.rates.create(meter="gpu_second", nano=1)
    ServingInterval.objects.update(ended_at=at(30))
    bill(at(60))
    assert charged() == 2 * (10 * 1 + 11 * 2 + 9 * 3)
    assert GpuUsage.objects.values("price_version_id").distinct().count() == 3


def test_the_price_of_its_gpu_type_and_its_organization(
    interval: ServingInterval, acme: Organization
) -> None:
    since = BEGAN - timedelta(days=1)
    for book, gpu_type, factor in (
        (PriceBook.of_house("USD"), "Fake GPU", 5),
        (PriceBook.of_house("USD"), "Other GPU", 7),
        (PriceBook.of_organization(acme, "USD"), "Other GPU", 11),
    ):
        version = PriceVersion.objects.create(book=book, effective_at=since, gpu_type=gpu_type)
        version.rates.create(meter="gpu_second", nano=factor * RATES["gpu_second"])
    bill(seen(at(1)))
    assert charged() == 2 * 5
    own = PriceVersion.objects.create(book=acme.price_book, effective_at=since)
    own.rates.create(meter="gpu_second", nano=100 * RATES["gpu_second"])
    bill(seen(at(2)))
    assert charged() == 2 * 5 + 2 * 100


def test_a_discount_and_what_is_free_in_the_month(
    interval: ServingInterval, acme: Organization
) -> None:
    Terms.objects.create(
        organization=acme,
        effective_at=BEGAN - timedelta(days=1),
        discount=5_000,
        free_nano=30 * SECOND,
        free_tokens=10**9,
    )
    bill(seen(at(20)))
    assert not LedgerTransaction.objects.exists()
    bill(seen(at(40)))
    assert charged() == 40 - 30
    assert Allowance.objects.get().nano == 30 * SECOND
    assert GpuUsage.objects.get(from_second=0).transaction_id is None


def test_what_is_free_begins_anew_with_the_month(
    interval: ServingInterval, acme: Organization
) -> None:
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    ServingInterval.objects.update(started_at=midnight - timedelta(seconds=10), ended_at=midnight)
    ServingInterval.objects.update(ended_at=midnight + timedelta(seconds=10))
    Terms.objects.create(organization=acme, effective_at=BEGAN, free_nano=15 * SECOND)
    bill(midnight + timedelta(hours=1))
    assert charged() == 2 * 20 - 2 * 15


def test_processors_cost_nothing_unless_they_have_a_price(
    interval: ServingInterval,
) -> None:
    ServingInterval.objects.update(gpu_count=0, gpu_type="")
    bill(seen(at(10)))
    assert charged() == 0
    book = PriceBook.of_house("USD")
    version = PriceVersion.objects.create(book=book, effective_at=BEGAN)
    version.rates.create(meter="cpu_second", nano=RATES["gpu_second"])
    bill(seen(at(15)))
    assert charged() == 5


def test_where_there_is_no_price_the_seconds_are_past_all_the_same(
    interval: ServingInterval, acme: Organization
) -> None:
    profile = wallet.profile_of(acme)
    profile.currency = "JPY"
    profile.save()
    bill(seen(at(60)))
    assert charged() == 0
    interval.refresh_from_db()
    assert interval.billed_seconds == 60


def test_whoever_is_killed_has_charged_nothing(
    interval: ServingInterval, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = GpuUsage.objects.create

    def killed(**row: object) -> None:
        real(**row)
        raise KeyboardInterrupt

    now = seen(at(60))
    with monkeypatch.context() as patched:
        patched.setattr(GpuUsage.objects, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            bill(now)
    assert charged() == 0
    bill(now)
    assert charged() == 2 * 60


def test_one_that_cannot_be_charged_holds_up_nobody(
    interval: ServingInterval, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen_ids = gpu.charge, []

    def sometimes(stretch: gpu.Stretch) -> int:
        seen_ids.append(stretch.interval_id)
        if len(seen_ids) == 1:
            raise RuntimeError("a defect")
        return real(stretch)

    other = instance.replicas.create(
        organization=instance.organization, generation=9, node=interval.replica.node
    )
    ServingInterval.objects.create(
        organization=instance.organization,
        instance=instance,
        replica=other,
        gpu_count=1,
        started_at=BEGAN,
    )
    monkeypatch.setattr(gpu, "charge", sometimes)
    bill(seen(at(10)))
    assert len(seen_ids) == 2
    assert charged() in {10, 20}
    bill(seen(at(10)))
    assert charged() == 30


@pytest.mark.django_db(transaction=True)
def test_tasks_that_run_at_the_same_time_charge_each_second_once(
    interval: ServingInterval,
) -> None:
    errors: list[BaseException] = []

    def work(until: datetime) -> None:
        try:
            gpu_time.bill(until)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    seen(at(1000))
    for step in range(1, 6):
        threads = [
            threading.Thread(target=work, args=(at(step * 60 + n) + NOTICED,)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    interval.refresh_from_db()
    assert charged() == 2 * interval.billed_seconds
    rows = GpuUsage.objects.order_by("from_second").values_list("from_second", "seconds")
    assert sum(seconds for _, seconds in rows) == interval.billed_seconds
    assert all(a + b == c for (a, b), (c, _) in zip(rows, rows[1:], strict=False))
