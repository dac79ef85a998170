"""What people want of adapters comes about at the place, and what is there is told."""

import pytest

from accounts.models import Organization, User
from inference.lifecycle import InstanceState
from inference.models import Adapter, Instance
from inference.provisioners.base import AdapterPhase, AdapterSeen
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from inference.reconciler.adapters import standing, to_be_told
from tests.inference.making import a_wish, rounds
from tests.inference.test_adapters_verbs import add

LORA = {"enable_lora": True}


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner()


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


@pytest.fixture
def instance(acme: Organization, alice: User, reconciler: Reconciler) -> Instance:
    return rounds(reconciler, a_wish(acme, alice, settings=LORA))


def loaded(instance: Instance) -> list[list[str]]:
    """What the gateway may ask each replica for."""
    return [replica.adapters for replica in instance.replicas.filter(state="ready")]


def test_an_adapter_is_loaded_into_what_runs(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    before = instance.replicas.get().id
    adapter = add(instance, alice)

    rounds(reconciler, instance, 4)

    adapter.refresh_from_db()
    assert (adapter.state, adapter.message) == ("ready", "")
    assert adapter.ready_at is not None
    assert loaded(instance) == [[str(adapter.id)]]
    assert instance.replicas.get().id == before
    told = list(instance.events.values_list("reason", flat=True))[:2]
    assert told == ["adapter_ready", "adapter_added"]


def test_it_is_called_on_its_way_and_then_settled(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    assert not reconciler.round()
    add(instance, alice)
    assert reconciler.round()
    rounds(reconciler, instance, 4)
    assert not reconciler.round()


def test_a_replica_that_comes_later_has_it_as_soon_as_it_is_ready(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = a_wish(acme, alice, settings=LORA)
    adapter = add(instance, alice)
    for _ in range(12):
        reconciler.round()
        adapter.refresh_from_db()
        assert adapter.state in {"requested", "loading", "ready"}
    assert adapter.state == "ready"
    assert loaded(instance) == [[str(adapter.id)]]


def test_a_new_generation_gets_it_again(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    adapter = add(instance, alice)
    rounds(reconciler, instance, 4)
    instance.request_restart(alice)

    rounds(reconciler, instance)

    adapter.refresh_from_db()
    assert adapter.state == "ready"
    assert loaded(instance) == [[str(adapter.id)]]
    assert instance.events.filter(reason="adapter_ready").count() == 1


def test_one_that_fails_harms_nothing_and_says_why(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    place.spoil("bad", "It was made for another model.")
    bad, good = add(instance, alice, "bad"), add(instance, alice, "good")

    rounds(reconciler, instance, 6)

    bad.refresh_from_db()
    good.refresh_from_db()
    assert (bad.state, bad.message) == ("failed", "It was made for another model.")
    assert good.state == "ready"
    assert instance.state == InstanceState.READY
    assert loaded(instance) == [[str(good.id)]]
    assert instance.events.filter(reason="adapter_failed").count() == 1
    assert not reconciler.round()
    bad.remove(alice)
    rounds(reconciler, instance, 4)
    bad.refresh_from_db()
    assert bad.removed_at is not None


def test_a_removed_one_is_gone_when_no_engine_has_it(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    adapter = add(instance, alice)
    rounds(reconciler, instance, 4)
    adapter.remove(alice)
    reconciler.round()
    adapter.refresh_from_db()
    assert adapter.removed_at is None

    rounds(reconciler, instance, 4)

    adapter.refresh_from_db()
    assert adapter.removed_at is not None
    assert loaded(instance) == [[]]
    (replica,) = place.replicas.values()
    assert replica.adapters == {}
    assert instance.state == InstanceState.READY


def test_a_stopped_instance_has_none_and_gets_them_back(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    adapter = add(instance, alice)
    rounds(reconciler, instance, 4)
    instance.request_stop(alice)
    rounds(reconciler, instance)
    adapter.refresh_from_db()
    assert adapter.state == "requested"
    instance.request_start(alice)
    rounds(reconciler, instance)
    adapter.refresh_from_db()
    assert adapter.state == "ready"


def test_settings_without_room_make_them_fail_and_not_the_instance(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    adapter = add(instance, alice)
    rounds(reconciler, instance, 4)
    instance.change(alice, settings={})

    rounds(reconciler, instance)

    adapter.refresh_from_db()
    assert adapter.state == "failed"
    assert "without room for adapters" in adapter.message
    assert instance.state == InstanceState.READY
    instance.change(alice, settings=LORA)
    rounds(reconciler, instance)
    adapter.refresh_from_db()
    assert adapter.state == "ready"


def test_a_place_out_of_reach_changes_nothing(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    adapter, removed = add(instance, alice), add(instance, alice, "other")
    rounds(reconciler, instance, 4)
    place.unreachable = True
    removed.remove(alice)
    rounds(reconciler, instance, 3)
    adapter.refresh_from_db()
    removed.refresh_from_db()
    assert adapter.state == "ready"
    assert (removed.state, removed.removed_at) == ("removing", None)


def test_a_deleted_instance_frees_the_names_of_its_adapters(
    instance: Instance, acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    add(instance, alice)
    instance.request_delete(alice)
    rounds(reconciler, instance)
    assert not Adapter.objects.filter(removed_at=None).exists()
    assert a_wish(acme, alice, name="tone").name == "tone"


# Decided without a place


def seen(phase: AdapterPhase, id_: str = "1", message: str = "") -> AdapterSeen:
    return AdapterSeen(adapter_id=id_, phase=phase, message=message)


LOADING, LOADED = seen(AdapterPhase.LOADING, message="Fetching."), seen(AdapterPhase.LOADED)
FAILED, UNLOADING = seen(AdapterPhase.FAILED, message="No."), seen(AdapterPhase.UNLOADING)


@pytest.mark.parametrize(
    ("by_replica", "expected"),
    [
        ([], ("requested", "")),
        ([UNLOADING], ("requested", "")),
        ([LOADING], ("loading", "Fetching.")),
        ([FAILED], ("failed", "No.")),
        ([FAILED, LOADING], ("loading", "Fetching.")),
        ([LOADING, LOADED], ("ready", "")),
        ([FAILED, LOADED], ("ready", "No.")),
    ],
)
def test_it_stands_as_the_best_of_its_replicas_has_it(
    by_replica: list[AdapterSeen], expected: tuple[str, str]
) -> None:
    assert standing(by_replica) == expected


@pytest.mark.parametrize(
    ("wanted", "there", "told"),
    [
        ([], [], False),
        (["1"], [], True),
        (["1"], [LOADED], False),
        (["1"], [FAILED], False),
        (["1"], [LOADING], True),
        ([], [LOADED], True),
        ([], [FAILED], True),
        ([], [UNLOADING], True),
        (["1", "2"], [LOADED], True),
    ],
)
def test_a_place_is_told_until_it_is_as_wanted(
    wanted: list[str], there: list[AdapterSeen], told: bool
) -> None:
    assert to_be_told(wanted, there) is told
