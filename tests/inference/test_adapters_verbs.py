"""LoRA adapters of an instance: who may have which, under which name, and that nothing restarts."""

import json
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from accounts.models import ApiKey, Organization, User
from inference import adapters, folders
from inference.hub import GatedModel, ModelNotFound
from inference.models import Adapter, Instance, Route
from inference.models.adapter import MOST_ADAPTERS
from inference.models.route import Way
from tests.fakes.hub import FakeHub, tiny_adapter, tiny_model, write_files
from tests.inference.making import a_wish

LORA = {"enable_lora": True}


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return a_wish(acme, alice, settings=LORA)


def add(instance: Instance, by: User, name: str = "tone", **changes: object) -> Adapter:
    facts: dict[str, object] = {
        "source": "hub",
        "model_id": "acme/tone",
        "model_revision": "a" * 40,
        "rank": 4,
    }
    return Adapter.add(instance, by, name=name, **(facts | changes))  # type: ignore[arg-type]


def problems(refused: "pytest.ExceptionInfo[ValidationError]") -> str:
    return " ".join(refused.value.messages)


def test_an_adapter_starts_nothing_anew_and_is_written_down(
    instance: Instance, alice: User
) -> None:
    before = (instance.generation, instance.revision)

    adapter = add(instance, alice)

    instance.refresh_from_db()
    assert (instance.generation, instance.revision) == before
    assert (adapter.state, adapter.removed_at, adapter.created_by) == ("requested", None, alice)
    event = instance.events.first()
    assert event is not None
    assert (event.reason, event.data, event.by) == ("adapter_added", {"about": "tone"}, alice)


def test_room_for_adapters_is_a_setting_like_any_other(acme: Organization, alice: User) -> None:
    instance = a_wish(acme, alice)
    with pytest.raises(ValidationError) as refused:
        add(instance, alice)
    assert "Turn on “LoRA adapters”" in problems(refused)

    instance.change(alice, settings=LORA)

    assert (instance.revision, instance.generation) == (2, 2)
    assert add(instance, alice).name == "tone"


def test_an_engine_that_knows_no_adapters_says_so(acme: Organization, alice: User) -> None:
    with pytest.raises(ValidationError) as refused:
        add(a_wish(acme, alice, engine="transformers"), alice)
    assert problems(refused) == "The engine of this instance takes no adapters."


def test_a_rank_that_has_no_room_is_refused(instance: Instance, alice: User) -> None:
    with pytest.raises(ValidationError, match="Its rank is 32") as refused:
        add(instance, alice, rank=32)
    assert "model_id" in refused.value.message_dict
    instance.change(alice, settings=LORA | {"max_lora_rank": "32"})
    assert add(instance, alice, rank=32).rank == 32


def test_a_name_is_given_once_among_all_that_programs_may_say(
    instance: Instance, acme: Organization, umbrella: Organization, alice: User, charlie: User
) -> None:
    Route.make(acme, alice, name="chat", ways=[Way(instance)])
    for taken in ("demo", "chat"):
        with pytest.raises(ValidationError) as refused:
            add(instance, alice, taken)
        assert "name" in refused.value.message_dict
    add(instance, alice)
    with pytest.raises(ValidationError, match="An adapter with this name"):
        add(instance, alice)
    with pytest.raises(ValidationError, match="An adapter has this name"):
        a_wish(acme, alice, name="tone")
    with pytest.raises(ValidationError, match="An adapter has this name"):
        Route.make(acme, alice, name="tone", ways=[Way(instance)])
    theirs = a_wish(umbrella, charlie, settings=LORA)
    assert add(theirs, charlie).name == "tone"


@pytest.mark.parametrize("name", ["", "Tone", "-tone", "a b", "x" * 64])
def test_its_name_is_a_models_name(instance: Instance, alice: User, name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        add(instance, alice, name)
    assert "name" in refused.value.message_dict


def test_a_removed_one_is_gone_where_nothing_runs(instance: Instance, alice: User) -> None:
    adapter = add(instance, alice)

    assert adapter.remove(alice)

    assert adapter.removed_at is not None
    assert not adapter.remove(alice)
    assert instance.events.first().reason == "adapter_removed"  # type: ignore[union-attr]
    assert add(instance, alice).id != adapter.id


def test_a_removed_one_keeps_its_name_until_engines_have_let_go(
    instance: Instance, alice: User
) -> None:
    adapter = add(instance, alice)
    instance.replicas.create(organization=instance.organization, generation=1, state="ready")

    assert adapter.remove(alice)

    assert (adapter.state, adapter.removed_at) == ("removing", None)
    with pytest.raises(ValidationError, match="An adapter with this name"):
        add(instance, alice)


def test_there_are_only_so_many(instance: Instance, alice: User) -> None:
    for number in range(MOST_ADAPTERS):
        add(instance, alice, f"tone-{number}")
    with pytest.raises(ValidationError, match="32 adapters at most"):
        add(instance, alice)


def test_a_deleted_instance_gets_none(instance: Instance, alice: User) -> None:
    instance.request_delete(alice)
    with pytest.raises(ValidationError, match="deleted"):
        add(instance, alice)


def test_a_key_may_be_kept_to_an_adapter(
    instance: Instance, acme: Organization, alice: User
) -> None:
    adapter = add(instance, alice)
    key, _ = ApiKey.issue(acme, alice, "k", models_allowed=["tone"])
    assert key.models_allowed == ["tone"]
    adapter.remove(alice)
    with pytest.raises(ValidationError):
        ApiKey.issue(acme, alice, "k", models_allowed=["tone"])


@pytest.mark.django_db(transaction=True)
def test_gateways_and_the_controller_hear_of_it(acme: Organization, alice: User) -> None:
    instance = a_wish(acme, alice, settings=LORA)
    replica = instance.replicas.create(organization=acme, generation=1, state="ready")
    with connection.cursor() as cursor:
        cursor.execute("LISTEN modelport_gateway; LISTEN modelport_controller")
    try:
        adapter = add(instance, alice)
        replica.adapters = [str(adapter.id)]
        replica.save(update_fields=["adapters"])
        adapter.remove(alice)
        heard = [n.payload for n in connection.connection.notifies(timeout=5, stop_after=5)]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UNLISTEN *")
    assert heard == [
        f"inference_adapter:{adapter.id}",
        str(instance.id),
        f"inference_replica:{replica.id}",
        f"inference_adapter:{adapter.id}",
        str(instance.id),
    ]


# Its files


def test_an_adapter_of_the_hub_is_pinned(instance: Instance, alice: User, hub: FakeHub) -> None:
    repository = hub.add("acme/tone", tiny_adapter())

    adapter = adapters.add(instance, alice, name="tone", source="hub", model_id=" acme/tone ")

    assert (adapter.model_id, adapter.model_revision) == ("acme/tone", repository.commit)
    assert (adapter.rank, adapter.base_model) == (4, "acme/tiny")


def test_what_is_no_adapter_is_refused(instance: Instance, alice: User, hub: FakeHub) -> None:
    files = tiny_adapter()
    pickled = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    hub.add("acme/pickle", pickled | {"adapter_model.bin": b"pickle"})
    hub.add("acme/model", tiny_model())
    hub.add("acme/big", tiny_adapter(r=64))
    hub.add("acme/locked", files, gated=True)
    for name, words in (
        ("acme/pickle", "other formats"),
        ("acme/model", "adapter_model.safetensors"),
        ("acme/big", "rank is 64"),
    ):
        with pytest.raises(ValidationError, match=words) as refused:
            adapters.add(instance, alice, name="tone", source="hub", model_id=name)
        assert "model_id" in refused.value.message_dict
    with pytest.raises(GatedModel):
        adapters.add(instance, alice, name="tone", source="hub", model_id="acme/locked")
    with pytest.raises(ModelNotFound):
        adapters.add(instance, alice, name="tone", source="hub", model_id="acme/nothing")
    assert not Adapter.objects.exists()


def test_an_adapter_in_a_folder_is_known_by_its_path(
    instance: Instance, alice: User, model_folder: Path
) -> None:
    folder = write_files(model_folder / "acme" / "tone", tiny_adapter())
    assert adapters.on_hand() == ["acme/tone"]
    given = {"name": "tone", "source": "local", "model_id": "acme/tone"}

    adapter = adapters.add(instance, alice, **given)

    assert len(adapter.model_revision) == 40
    adapter.remove(alice)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 4}))
    with pytest.raises(ValidationError, match="have changed"):
        adapters.add(instance, alice, **given, model_revision=adapter.model_revision)
    with pytest.raises(ValidationError, match="no adapter /etc"):
        adapters.add(instance, alice, **given | {"model_id": "/etc"})


def test_an_adapter_is_not_offered_as_a_model(model_folder: Path) -> None:
    write_files(model_folder / "acme" / "tone", tiny_adapter())
    assert "acme/tone" not in folders.folders()
