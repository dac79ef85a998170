"""A draft model as people ask for it: pinned, part of each revision, refused where it is no use."""

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from accounts.models import ApiKey, Organization, User
from inference import demo
from inference.models import HubCredential, Instance, Node
from inference.provisioners.base import Draft
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.making import a_wish, rounds

URL = "/api/v1/organizations/acme/instances/"
NEW = "/o/acme/instances/new/"
GUESSING = {"speculation": "draft_model"}
ITSELF = {
    "draft_source": "bundled",
    "draft_id": demo.MODEL_ID,
    "draft_revision": demo.model_revision(),
}
NONE = {"draft_source": "", "draft_id": "", "draft_revision": ""}
WANTED = {"source": "bundled", "model": demo.MODEL_ID, "name": "demo"}


@pytest.fixture
def bearer(acme: Organization, alice: User) -> dict[str, str]:
    _, key = ApiKey.issue(acme, alice, "ci", kind=ApiKey.Kind.MANAGEMENT)
    return {"Authorization": f"Bearer {key}"}


def post(client: Client, url: str, body: object, headers: dict[str, str]) -> Any:
    return client.post(url, json.dumps(body), content_type="application/json", headers=headers)


def draft_of(instance: Instance) -> dict[str, str]:
    instance.refresh_from_db()
    return {name: getattr(instance, name) for name in NONE}


# Verbs


def test_what_is_started_has_its_draft_model(acme: Organization, alice: User) -> None:
    place = FakeProvisioner()
    instance = a_wish(acme, alice, settings=GUESSING, **ITSELF)

    rounds(Reconciler(place), instance)

    (replica,) = place.replicas.values()
    assert replica.spec.draft == Draft(
        source="bundled",
        model_id=demo.MODEL_ID,
        revision=demo.model_revision(),
        path=str(demo.MODEL_PATH),
    )


def test_a_draft_model_of_the_hub_is_fetched_with_the_organizations_token(
    acme: Organization, alice: User
) -> None:
    place = FakeProvisioner()
    HubCredential.keep(acme, "hf_secret", alice)
    draft = {"draft_source": "hub", "draft_id": "acme/small", "draft_revision": "1" * 40}

    rounds(Reconciler(place), a_wish(acme, alice, settings=GUESSING, **draft))

    (replica,) = place.replicas.values()
    assert replica.spec.hub_token == "hf_secret"
    assert replica.spec.draft == Draft(source="hub", model_id="acme/small", revision="1" * 40)


def test_another_draft_model_is_another_revision_and_comes_back(
    acme: Organization, alice: User
) -> None:
    instance = a_wish(acme, alice)
    second = instance.change(alice, settings=GUESSING, **ITSELF)

    told = {label: now for label, _was, now in second.differences(instance.revisions.get(number=1))}
    assert told["Draft model"] == demo.MODEL_ID
    assert told["Draft model's revision"] == demo.model_revision()[:12]
    assert draft_of(instance) == ITSELF
    instance.roll_back(alice, 1)
    assert draft_of(instance) == NONE
    instance.roll_back(alice, 2)
    assert draft_of(instance) == ITSELF


@pytest.mark.parametrize(
    ("wish", "field", "why"),
    [
        (ITSELF, "draft_id", "needs speculation to be"),
        (ITSELF | {"settings": {"speculation": "ngram"}}, "draft_id", "needs speculation to be"),
        ({"settings": {"speculation": "eagle3"}}, "draft_id", "must be chosen"),
        (ITSELF | {"engine": "transformers"}, "draft_id", "takes no draft model"),
        (ITSELF | {"settings": GUESSING, "draft_revision": ""}, "draft_id", "a revision"),
        (ITSELF | {"settings": GUESSING, "draft_source": "ftp"}, "draft_source", "ftp"),
        ({"settings": GUESSING | {"runner": "pooling"}}, "settings", "not for embeddings"),
    ],
)
def test_what_does_not_go_together_is_refused_by_field(
    acme: Organization, alice: User, wish: dict[str, object], field: str, why: str
) -> None:
    for ask in (
        lambda: a_wish(acme, alice, name="other", **wish),
        lambda: a_wish(acme, alice, name="one").change(alice, **wish),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValidationError) as refused:
            ask()
        assert why in " ".join(refused.value.message_dict[field])


@pytest.mark.parametrize(
    "change", [{"settings": {}}, {"settings": {"speculation": "ngram"}}, {"engine": "transformers"}]
)
def test_a_draft_model_goes_with_what_it_was_chosen_for(
    acme: Organization, alice: User, change: dict[str, Any]
) -> None:
    instance = a_wish(acme, alice, settings=GUESSING, **ITSELF)
    if "engine" in change:
        change = change | {"settings": {}}

    instance.change(alice, **change)

    assert draft_of(instance) == NONE


def test_other_changes_leave_it(acme: Organization, alice: User) -> None:
    instance = a_wish(acme, alice, settings=GUESSING, **ITSELF)
    instance.change(alice, settings=GUESSING | {"speculative_tokens": 3})
    assert draft_of(instance) == ITSELF


# REST


def test_over_rest_it_is_pinned_to_what_it_is_now(
    client: Client, bearer: dict[str, str], hub: FakeHub
) -> None:
    files = tiny_model(vocab_size=2048)
    repository = hub.add("acme/small", files)
    asked = {"draft_source": "hub", "draft_id": "acme/small", "settings": GUESSING}
    wanted = {"name": "demo", "model_source": "bundled", "model_id": demo.MODEL_ID}

    made = post(client, URL, wanted | asked, bearer)

    assert made.status_code == 201, made.content
    pinned = {name: made.json()[name] for name in NONE}
    assert pinned == {
        "draft_source": "hub",
        "draft_id": "acme/small",
        "draft_revision": repository.commit,
    }


def test_over_rest_it_is_changed_pinned_anew_and_taken_away(
    client: Client, bearer: dict[str, str], hub: FakeHub, acme: Organization, alice: User
) -> None:
    small = hub.add("acme/small", tiny_model(vocab_size=2048))
    url = f"{URL}{a_wish(acme, alice).id}/revisions/"
    asked = {"draft_source": "hub", "draft_id": small.id, "settings": GUESSING}

    made = post(client, url, asked, bearer)
    other = post(client, url, {"draft_source": "bundled", "draft_id": demo.MODEL_ID}, bearer)
    none = post(client, url, {"draft_id": "", "settings": {}}, bearer)

    assert made.json()["draft_revision"] == small.commit
    assert {name: other.json()[name] for name in NONE} == ITSELF
    assert {name: none.json()[name] for name in NONE} == NONE


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"draft_source": "hub", "draft_id": "acme/none"}, "There is no model acme/none"),
        ({"draft_source": "local", "draft_id": "none"}, "There is no model none on this machine"),
        ({"draft_source": "hub", "draft_id": "acme/pickle"}, "pickles"),
        ({"draft_source": "hub", "draft_id": "acme/other"}, "2,048; they must have the same"),
        ({"draft_source": "hub", "draft_id": "https://elsewhere.example/a/b"}, "not the address"),
        ({"draft_source": "hub"}, "Say both"),
        ({"draft_id": "acme/small"}, "Say both"),
    ],
)
def test_one_that_cannot_be_had_is_refused_beside_its_name(
    client: Client, bearer: dict[str, str], hub: FakeHub, asked: dict[str, str], why: str
) -> None:
    pickled = {k: v for k, v in tiny_model().items() if k != "model.safetensors"}
    hub.add("acme/pickle", pickled | {"pytorch_model.bin": b"x"})
    hub.add("acme/other", tiny_model(vocab_size=32_000))
    wanted = {"name": "demo", "model_source": "bundled", "model_id": demo.MODEL_ID}

    answer = post(client, URL, wanted | {"settings": GUESSING} | asked, bearer)

    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "#/draft_id" and why in error["detail"]
    assert not Instance.objects.exists()


def test_an_eagle_head_may_have_words_of_its_own(
    client: Client, bearer: dict[str, str], hub: FakeHub
) -> None:
    hub.add("acme/other", tiny_model(vocab_size=32_000))
    asked = {"draft_source": "hub", "draft_id": "acme/other", "settings": {"speculation": "eagle3"}}
    wanted = {"name": "demo", "model_source": "bundled", "model_id": demo.MODEL_ID}

    assert post(client, URL, wanted | asked, bearer).status_code == 201


def test_a_hub_that_is_away_is_told_as_such(
    client: Client, bearer: dict[str, str], hub: FakeHub, alice_client: Client
) -> None:
    hub.down = HTTPStatus.SERVICE_UNAVAILABLE
    asked = {"draft_source": "hub", "draft_id": "acme/small", "settings": GUESSING}
    wanted = {"name": "demo", "model_source": "bundled", "model_id": demo.MODEL_ID}
    form = {"setting_speculation": "draft_model", "draft_source": "hub", "draft_id": "acme/small"}

    assert post(client, URL, wanted | asked, bearer).status_code == 503
    page = alice_client.post(NEW, WANTED | form)
    assert page.status_code == 422
    assert "cannot be reached" in page.context["form"].errors["draft_id"][0]


# Pages


def test_a_new_instance_is_asked_for_with_a_draft_model(
    alice_client: Client, model_folder: Path
) -> None:
    for name, content in tiny_model(vocab_size=2048).items():
        (model_folder / "small").mkdir(exist_ok=True)
        (model_folder / "small" / name).write_bytes(content)
    form = {"setting_speculation": "draft_model", "draft_source": "local", "draft_id": " small "}

    answer = alice_client.post(NEW, WANTED | form)

    instance = Instance.objects.get()
    assert answer.url == instance.get_absolute_url()
    assert (instance.draft_source, instance.draft_id) == ("local", "small")
    assert len(instance.draft_revision) == 40
    assert "small@" in alice_client.get(answer.url).content.decode()
    again = alice_client.post(NEW, WANTED | form)
    assert again.url == answer.url, "pressed twice"


@pytest.mark.parametrize(
    ("form", "field", "why"),
    [
        ({"draft_source": "bundled", "draft_id": demo.MODEL_ID}, "draft_id", "needs speculation"),
        ({"setting_speculation": "eagle"}, "draft_id", "must be chosen"),
        (
            {"setting_speculation": "eagle", "draft_source": "local", "draft_id": "none"},
            "draft_id",
            "There is no model none",
        ),
        ({"draft_source": "ftp"}, "draft_source", "valid choice"),
    ],
)
def test_what_is_wrong_with_it_is_told_in_place(
    alice_client: Client, form: dict[str, str], field: str, why: str
) -> None:
    answer = alice_client.post(NEW, WANTED | form)

    assert answer.status_code == 422
    assert why in " ".join(answer.context["form"].errors[field])
    assert not Instance.objects.exists()


def test_the_memory_of_both_is_asked_for(alice_client: Client, alice: User) -> None:
    sizes = {"memory_bytes": 64 << 30, "disk_free_bytes": 1 << 40}
    Node.objects.create(name="here", cpu_count=2, gpus=[], seen_at=timezone.now(), **sizes)
    query = {"source": "bundled", "model": demo.MODEL_ID}
    named = {"draft_source": "bundled", "draft_id": demo.MODEL_ID}

    alone = alice_client.get(NEW, query).context["fits"][0].fit
    both = alice_client.get(NEW, query | named).context["fits"][0].fit
    unknown = alice_client.get(NEW, query | named | {"draft_id": "none"}).context["fits"][0].fit

    assert both.weight_bytes == 2 * alone.weight_bytes
    assert unknown.weight_bytes == alone.weight_bytes


def test_the_settings_keep_a_draft_model_as_it_was_pinned(
    acme: Organization, alice: User, alice_client: Client, hub: FakeHub
) -> None:
    pinned = {"draft_source": "hub", "draft_id": "acme/small", "draft_revision": "1" * 40}
    instance = a_wish(acme, alice, settings=GUESSING, **pinned)
    address = f"/o/acme/instances/{instance.id}/settings/"
    page = alice_client.get(address)
    assert page.context["engine"]["draft_id"].value() == "acme/small"
    form = {
        "form": "engine",
        "setting_speculation": "draft_model",
        "setting_speculative_tokens": "3",
        "draft_source": "hub",
        "draft_id": "acme/small",
    }

    assert alice_client.post(address, form).status_code == 302
    assert draft_of(instance) == pinned, "the hub was not asked"

    small = hub.add("acme/smaller", tiny_model(vocab_size=2048))
    address_of_it = {"draft_id": f"{hub.url}/acme/smaller"}
    assert alice_client.post(address, form | address_of_it).status_code == 302
    assert draft_of(instance) == pinned | {
        "draft_id": "acme/smaller",
        "draft_revision": small.commit,
    }

    off = {"setting_speculation": "none", "setting_speculative_tokens": ""}
    page = alice_client.post(address, form | off | {"draft_source": "local", "draft_id": "other"})
    assert page.status_code == 422, "another one, for nothing"
    assert alice_client.post(address, form | off | {"draft_id": "acme/smaller"}).status_code == 302
    assert draft_of(instance) == NONE
