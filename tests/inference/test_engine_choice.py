"""Which engine: chosen among those that can load the model, each with settings of its own."""

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import Organization, User
from inference import demo
from inference.engines import ENGINES, loaders
from inference.models import Instance
from tests.inference.making import a_wish

NEW = "/o/acme/instances/new/"
WANTED = {"source": "bundled", "model": demo.MODEL_ID, "name": "demo"}


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return a_wish(acme, alice, settings={"max_model_len": 512, "dtype": "float32"})


def settings_of(form: object) -> set[str]:
    names = {name for name in form.fields if name.startswith("setting_")}  # type: ignore[attr-defined]
    return {name.removeprefix("setting_") for name in names}


def on_cpu(engine: str) -> set[str]:
    return {setting.name for setting in ENGINES[engine].settings if "cpu" in setting.variants}


def test_each_engine_is_offered_with_a_line_on_what_it_is_good_for(alice_client: Client) -> None:
    page = alice_client.get(NEW, WANTED).content.decode()

    for engine in ENGINES.values():
        assert (f'value="{engine.name}"' in page) == ("safetensors" in engine.formats)
        assert (engine.good_for in page) == ("safetensors" in engine.formats)


def test_the_settings_shown_are_the_chosen_engines(alice_client: Client) -> None:
    usual = alice_client.get(NEW, WANTED)
    other = alice_client.get(NEW, WANTED | {"engine": "transformers"})
    unknown = alice_client.get(NEW, WANTED | {"engine": "abacus"})

    assert settings_of(usual.context["form"]) == on_cpu("vllm")
    assert settings_of(other.context["form"]) == on_cpu("transformers")
    assert settings_of(unknown.context["form"]) == on_cpu("vllm")
    assert "draft_id" in usual.context["form"].fields
    assert "draft_id" not in other.context["form"].fields


def test_an_instance_runs_on_the_engine_that_was_chosen(alice_client: Client) -> None:
    chosen = {"engine": "transformers", "shown": "transformers", "setting_reasoning": "off"}

    alice_client.post(NEW, WANTED | chosen)

    instance = Instance.objects.get()
    assert (instance.engine, instance.settings) == ("transformers", {"reasoning": "off"})


@pytest.mark.parametrize("press", [{}, {"show_engine": "1"}])
def test_nothing_is_started_before_its_settings_were_shown(
    alice_client: Client, press: dict[str, str]
) -> None:
    form = WANTED | {"name": "mine", "engine": "transformers", "shown": "vllm"}

    answer = alice_client.post(NEW, form | press)

    assert not Instance.objects.exists()
    page = alice_client.get(answer.url)
    assert page.context["form"].chosen.name == "transformers"
    assert page.context["form"]["name"].value() == "mine"


def test_an_engine_that_there_is_not_is_an_error_of_the_form(
    alice_client: Client, instance: Instance
) -> None:
    page = alice_client.post(NEW, WANTED | {"name": "other", "engine": "abacus"})
    assert page.status_code == 422
    assert page.context["form"].errors["engine"]

    page = alice_client.post(f"/o/acme/instances/{instance.id}/settings/", {"engine": "abacus"})
    assert page.status_code == 422


def test_another_engine_is_another_revision(alice_client: Client, instance: Instance) -> None:
    address = f"/o/acme/instances/{instance.id}/settings/"
    page = alice_client.get(address, {"engine": "transformers"})
    form = page.context["engine"]
    assert settings_of(form) == on_cpu("transformers")
    assert form["setting_dtype"].value() == "float32", "both have it"
    body = {"form": "engine", "engine": "transformers", "setting_dtype": "float32"}

    shown = alice_client.post(address, body | {"shown": "vllm"})
    assert shown.url == f"{address}?engine=transformers#engine-title"
    instance.refresh_from_db()
    assert instance.engine == "vllm"

    assert alice_client.post(address, body | {"shown": "transformers"}).status_code == 302
    instance.refresh_from_db()
    assert (instance.engine, instance.settings) == ("transformers", {"dtype": "float32"})
    assert instance.revision == 2


def test_only_engines_that_load_such_weights_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ENGINES["transformers"]), "formats", frozenset({"gguf"}))

    assert loaders("safetensors") == [ENGINES["vllm"]]
    assert loaders("gguf") == [ENGINES["llama_cpp"], ENGINES["transformers"]]


def test_an_engine_that_does_not_load_such_weights_is_refused(
    acme: Organization, alice: User
) -> None:
    with pytest.raises(ValidationError) as refused:
        a_wish(acme, alice, engine="llama_cpp")
    assert refused.value.message_dict == {
        "model_file": ["llama.cpp loads a GGUF file: choose one."]
    }


# Sleep


def test_an_engine_that_never_says_whether_it_is_idle_does_not_sleep_by_itself(
    alice_client: Client, alice: User, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ENGINES["transformers"]), "metric_names", {})
    instance = a_wish(acme, alice, engine="transformers")
    address = f"/o/acme/instances/{instance.id}/settings/"
    sentence = "transformers serve does not say when it is idle, so it cannot sleep by itself."

    assert sentence in alice_client.get(address).content.decode()
    body = {"form": "running", "replica_count": "1", "sleep_after_minutes": "5"}
    page = alice_client.post(address, body)
    assert page.context["running"].errors["sleep_after_minutes"] == [sentence]
    instance.refresh_from_db()
    assert instance.sleep_after_minutes is None
    with pytest.raises(ValidationError):
        a_wish(acme, alice, name="other", engine="transformers", sleep_after_minutes=5)


@pytest.mark.parametrize("engine", ENGINES)
def test_ours_say_when_they_are_idle(
    alice_client: Client, alice: User, acme: Organization, engine: str
) -> None:
    if "safetensors" not in ENGINES[engine].formats:
        pytest.skip("it loads no such model")
    instance = a_wish(acme, alice, engine=engine)
    page = alice_client.get(f"/o/acme/instances/{instance.id}/settings/").content.decode()
    assert "cannot sleep by itself" not in page
    instance.set_sleep(alice, 5)
