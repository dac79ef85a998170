"""A start that failed: what people see, and what a press of a button does."""

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from accounts.roles import Role
from inference import demo
from inference.models import Instance, Replica
from tests.inference.doctor_logs import read


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return Instance.request(
        acme,
        alice,
        name="demo",
        model_source="bundled",
        model_id=demo.MODEL_ID,
        model_revision=demo.model_revision(),
        settings={"max_model_len": 9999, "max_num_seqs": 7},
    )


def fail(instance: Instance, log: str, reason: str = "bad_arguments") -> Replica:
    """As the reconciler leaves it after a start that failed for good."""
    replica = Replica.objects.create(
        organization=instance.organization,
        instance=instance,
        generation=instance.generation,
        state=Replica.State.GONE,
        ended_at=timezone.now(),
        end_reason=reason,
        exit_code=1,
        start_log="\n".join(read(log)),
    )
    Instance.objects.update(state="failed", reason=reason, message="It died.", attempts=3)
    instance.refresh_from_db()
    return replica


def test_the_page_says_why_and_offers_the_best_remedy_as_its_button(
    alice_client: Client, instance: Instance
) -> None:
    fail(instance, "own_context")

    page = alice_client.get(instance.get_absolute_url()).content.decode()

    assert "greater than the model&#x27;s own" in page
    assert "Start with a context of 2,048 tokens" in page
    assert f'action="/o/acme/instances/{instance.id}/remedy/"' in page


def test_the_button_makes_a_revision_with_the_remedys_setting_and_starts_it(
    alice_client: Client, alice: User, instance: Instance
) -> None:
    fail(instance, "own_context")

    answer = alice_client.post(f"{instance.get_absolute_url()}remedy/", {"remedy": "context"})

    instance.refresh_from_db()
    assert answer.url == instance.get_absolute_url()
    assert instance.settings == {"max_model_len": 2048, "max_num_seqs": 7}
    assert (instance.revision, instance.attempts) == (2, 0)
    assert instance.revisions.get(number=2).created_by == alice


def test_a_failure_that_nothing_changes_is_tried_again(
    alice_client: Client, instance: Instance
) -> None:
    fail(instance, "damaged_environment", "image_error")

    alice_client.post(f"{instance.get_absolute_url()}remedy/", {"remedy": "retry"})

    instance.refresh_from_db()
    assert (instance.generation, instance.revision, instance.attempts) == (2, 1, 0)


@pytest.mark.parametrize("remedy", ["", "gpus-2", "operator", "no-such"])
def test_what_is_not_offered_is_not_done(
    alice_client: Client, instance: Instance, remedy: str
) -> None:
    fail(instance, "own_context")

    url = f"{instance.get_absolute_url()}remedy/"
    page = alice_client.post(url, {"remedy": remedy}, follow=True).content.decode()

    instance.refresh_from_db()
    assert "no longer of use" in page
    assert instance.generation == 1


def test_a_second_press_does_nothing(alice_client: Client, instance: Instance) -> None:
    fail(instance, "own_context")
    url = f"{instance.get_absolute_url()}remedy/"
    alice_client.post(url, {"remedy": "context"})
    Instance.objects.update(state="provisioning", reason="")

    alice_client.post(url, {"remedy": "context"})

    instance.refresh_from_db()
    assert instance.revision == 2


def test_a_revision_that_cannot_come_in_has_its_remedy_too(
    alice_client: Client, instance: Instance
) -> None:
    fail(instance, "own_context")
    Instance.objects.update(state="ready", reason="", rollout_reason="bad_arguments")

    alice_client.post(f"{instance.get_absolute_url()}remedy/", {"remedy": "context"})

    instance.refresh_from_db()
    assert instance.settings["max_model_len"] == 2048


def test_every_attempt_is_told_with_its_log_and_without_the_machines_paths(
    alice_client: Client, instance: Instance
) -> None:
    fail(instance, "damaged_environment", "image_error")
    fail(instance, "own_context")

    page = alice_client.get(f"{instance.get_absolute_url()}attempts/").content.decode()

    assert page.count("Log of this attempt") == 2
    assert "own_context" in page and "environment" in page
    assert "max_model_len (9999)" in page
    assert "/srv/" not in page


def test_a_failure_without_an_engine_is_explained_from_what_the_place_said(
    alice_client: Client, instance: Instance
) -> None:
    gated = "demo is gated: accept its licence on the hub, and give the organization a hub token"
    Instance.objects.update(state="failed", reason="bad_arguments", message=gated, attempts=3)

    page = alice_client.get(instance.get_absolute_url()).content.decode()

    assert "Enter a hub token" in page
    assert 'href="/o/acme/settings/hub-token/"' in page


def test_an_engine_that_dies_again_and_again_is_told_with_its_last_cause_and_remedies(
    alice_client: Client, instance: Instance
) -> None:
    fail(instance, "healthy", "crashed")
    said = "It started and died 6 times within 4 min. The engine was killed."
    Replica.objects.update(ready_at=timezone.now(), exit_code=-9, start_log="")
    Instance.objects.update(message=said, reason="crashed")

    page = alice_client.get(instance.get_absolute_url()).content.decode()

    assert "The instance dies again and again" in page
    assert "It started and died 6 times within 4 min. The engine was killed." in page
    assert "Most often the system does so when memory runs out." in page
    assert 'value="retry"' in page


def test_who_may_read_and_who_may_act(
    bob: User, charlie_client: Client, client: Client, instance: Instance
) -> None:
    fail(instance, "own_context")
    bob.memberships.update(role=Role.VIEWER)
    viewer = Client()
    viewer.force_login(bob)
    attempts, remedy = (f"{instance.get_absolute_url()}{part}/" for part in ("attempts", "remedy"))

    assert viewer.get(attempts).status_code == 200
    assert "/remedy/" not in viewer.get(instance.get_absolute_url()).content.decode()
    assert viewer.post(remedy, {"remedy": "context"}).status_code == 403
    assert charlie_client.get(attempts).status_code == 404
    assert charlie_client.post(remedy, {"remedy": "context"}).status_code == 404
    assert client.get(attempts).status_code == 302
