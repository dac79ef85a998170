"""Instance pages: from the catalogue to a running engine, for those who may."""

import pytest
from django.test import Client

from accounts.models import Organization, User
from accounts.roles import Role
from inference import demo
from inference.models import Instance, Replica, Route
from inference.models.route import Way

NEW = "/o/acme/instances/new/"
WANTED = {"source": "bundled", "model": demo.MODEL_ID, "name": "demo"}


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return Instance.request(
        acme,
        alice,
        name="demo",
        model_source="bundled",
        model_id=demo.MODEL_ID,
        model_revision=demo.model_revision(),
    )


def test_the_form_suggests_a_name_and_starts_an_instance(alice_client: Client) -> None:
    page = alice_client.get(f"{NEW}?source=bundled&model={demo.MODEL_ID}")
    assert page.context["form"]["name"].value() == "demo"
    answer = alice_client.post(NEW, WANTED | {"setting_max_model_len": "512"})
    made = Instance.objects.get()
    assert answer.url == made.get_absolute_url()
    assert made.settings["max_model_len"] == 512
    assert made.model_revision == demo.model_revision()


def test_a_preset_fills_what_was_left_empty_and_is_recorded(alice_client: Client) -> None:
    chosen = {"setting_preset": "context", "setting_kv_cache_gib": "3", "setting_dtype": "auto"}
    alice_client.post(NEW, WANTED | chosen)
    settings = Instance.objects.get().settings
    assert settings["preset"] == "context"
    assert settings["max_num_seqs"] == 8
    assert settings["kv_cache_gib"] == 3
    assert "dtype" not in settings


def test_settings_that_do_not_go_together_are_told(alice_client: Client) -> None:
    chosen = {"setting_max_num_seqs": "100", "setting_max_num_batched_tokens": "64"}
    answer = alice_client.post(NEW, WANTED | chosen)
    assert answer.status_code == 422
    assert "must be at least max_num_seqs" in answer.content.decode()
    assert not Instance.objects.exists()


def test_pressing_twice_with_a_preset_asks_once(alice_client: Client) -> None:
    answers = [alice_client.post(NEW, WANTED | {"setting_preset": "cost"}) for _ in range(2)]
    assert answers[0].url == answers[1].url
    assert Instance.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Not A Name"}, "lower-case letters"),
        ({"setting_max_model_len": "1"}, "greater than or equal to 16"),
        ({"name": ""}, "required"),
    ],
)
def test_wrong_input_is_told_in_place(
    alice_client: Client, change: dict[str, str], words: str
) -> None:
    answer = alice_client.post(NEW, WANTED | change)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Instance.objects.exists()


def test_a_name_is_taken_once(alice_client: Client, instance: Instance) -> None:
    answer = alice_client.post(NEW, WANTED)
    assert "An instance with this name exists already." in answer.content.decode()


def test_a_model_that_is_not_there_leads_back_to_the_catalogue(alice_client: Client) -> None:
    answer = alice_client.get(f"{NEW}?source=bundled&model=no/such")
    assert answer.url == "/o/acme/models/"


def test_deleting_takes_the_name(alice_client: Client, instance: Instance) -> None:
    url = f"/o/acme/instances/{instance.id}/delete/"
    alice_client.post(url, {"confirm": "dem"})
    instance.refresh_from_db()
    assert instance.desired == "running"
    alice_client.post(url, {"confirm": "demo"})
    instance.refresh_from_db()
    assert instance.desired == "deleted"


def test_a_failed_start_says_what_to_do(alice_client: Client, instance: Instance) -> None:
    Instance.objects.update(state="failed", reason="out_of_memory", message="It died.", attempts=3)
    page = alice_client.get(instance.get_absolute_url()).content.decode()
    assert "It died." in page
    assert "choose a smaller model" in page
    assert f"/o/acme/instances/{instance.id}/start/" in page


def test_progress_is_shown_in_bytes(alice_client: Client, instance: Instance) -> None:
    Instance.objects.update(
        state="provisioning",
        stage="downloading",
        message="Downloading.",
        progress_done=10**9,
        progress_total=4 * 10**9,
        progress_unit="bytes",
    )
    page = alice_client.get(
        instance.get_absolute_url(), headers={"HX-Request": "true"}
    ).content.decode()
    assert "GB" in page
    assert 'hx-trigger="every 2s"' in page
    assert "<html" not in page


def test_without_a_supervisor_the_log_says_so(alice_client: Client, instance: Instance) -> None:
    url = f"/o/acme/instances/{instance.id}/logs/"
    assert "has not been started" in alice_client.get(url).content.decode()
    Replica.objects.create(
        organization=instance.organization, instance=instance, generation=1, handle=None
    )
    assert "cannot be reached" in alice_client.get(url).content.decode()


@pytest.mark.parametrize(("chats", "said"), [(False, True), (True, False), (None, False)])
def test_a_model_without_a_chat_template_is_told_of_while_it_serves(
    alice_client: Client, instance: Instance, chats: bool | None, said: bool
) -> None:
    instance.replicas.create(
        organization=instance.organization, generation=1, state="ready", chats=chats
    )
    page = alice_client.get(instance.get_absolute_url()).content.decode()
    assert ("This model has no chat template" in page) is said


@pytest.mark.parametrize("tab", ["", "logs/", "events/"])
def test_who_sees_an_instance(
    bob: User, charlie_client: Client, client: Client, instance: Instance, tab: str
) -> None:
    bob.memberships.update(role=Role.VIEWER)
    viewer = Client()
    viewer.force_login(bob)
    url = f"{instance.get_absolute_url()}{tab}"
    assert viewer.get(url).status_code == 200
    assert charlie_client.get(url).status_code == 404
    assert client.get(url).status_code == 302
    assert viewer.post(f"/o/acme/instances/{instance.id}/stop/").status_code == 403
    assert viewer.get(NEW).status_code == 403


def test_another_organizations_instance_is_not_there(
    charlie_client: Client, umbrella: Organization, instance: Instance
) -> None:
    url = f"/o/umbrella/instances/{instance.id}/"
    assert charlie_client.get(url).status_code == 404
    assert charlie_client.post(f"{url}delete/", {"confirm": "demo"}).status_code == 404


def test_lists_and_the_playground_know_their_instances(
    alice_client: Client, instance: Instance
) -> None:
    assert "demo" in alice_client.get("/o/acme/instances/").content.decode()
    assert "No instance is ready" in alice_client.get("/o/acme/playground/").content.decode()
    Instance.objects.update(state="ready")
    assert 'value="demo"' in alice_client.get("/o/acme/playground/").content.decode()


def test_the_playground_offers_the_routes_that_lead_somewhere(
    alice_client: Client, acme: Organization, alice: User, instance: Instance
) -> None:
    Route.make(acme, alice, name="support-bot", ways=[Way(instance=instance)])
    page = "/o/acme/playground/"
    assert 'value="support-bot"' not in alice_client.get(page).content.decode()
    Instance.objects.update(state="ready")
    assert 'value="support-bot"' in alice_client.get(page).content.decode()
