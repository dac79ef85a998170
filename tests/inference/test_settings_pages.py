"""The settings and the revisions of an instance, as pages."""

from datetime import time

import pytest
from django.test import Client

from accounts.models import Organization, User
from accounts.roles import Role
from inference import demo
from inference.models import Instance, InstanceRevision
from inference.provisioners.base import Reason
from tests.cast import signed_in

ENTRY = {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "0", "time_zone": "Asia/Taipei"}
NIGHT = {
    "form-0-days": ["1", "2", "4"],
    "form-0-starts": "20:00",
    "form-0-ends": "07:30",
    "form-0-replica_count": "0",
}


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


@pytest.fixture
def address(instance: Instance) -> str:
    return f"/o/acme/instances/{instance.id}"


def test_replicas_and_sleep_are_set_and_start_nothing_anew(
    alice_client: Client, address: str, instance: Instance
) -> None:
    body = {"form": "running", "replica_count": "3", "sleep_after_minutes": "30"}
    assert alice_client.post(f"{address}/settings/", body).url == f"{address}/settings/"
    instance.refresh_from_db()
    assert (instance.replica_count, instance.sleep_after_minutes) == (3, 30)
    assert (instance.generation, instance.revision) == (1, 1)
    page = alice_client.get(f"{address}/settings/")
    assert page.context["running"]["replica_count"].value() == 3
    page = alice_client.post(f"{address}/settings/", body | {"replica_count": "0"})
    assert page.status_code == 422
    assert page.context["running"].errors["replica_count"]


def test_a_change_of_the_engine_is_a_revision(
    alice_client: Client, address: str, instance: Instance
) -> None:
    body = {"form": "engine", "setting_max_model_len": "512", "setting_dtype": "auto"}
    assert alice_client.post(f"{address}/settings/", body).url == f"{address}/"
    instance.refresh_from_db()
    assert instance.settings["max_model_len"] == 512
    assert (instance.generation, instance.revision, instance.replaces_at_once) == (2, 2, False)
    again = alice_client.post(f"{address}/settings/", body)
    assert again.status_code == 422
    assert b"That is how it is already." in again.content
    page = alice_client.post(f"{address}/settings/", body | {"setting_max_model_len": "1"})
    assert page.context["engine"].errors["setting_max_model_len"]
    assert instance.revisions.count() == 2


def test_revisions_tell_what_changed_and_lead_back(
    alice_client: Client, address: str, instance: Instance, alice: User
) -> None:
    instance.change(alice, settings={"max_model_len": 512})
    rows = alice_client.get(f"{address}/revisions/").context["revisions"]
    assert [row["revision"].number for row in rows] == [2, 1]
    assert rows[0]["differences"] == [("Context length", "not set", "512")]
    back = alice_client.post(f"{address}/revisions/1/restore/", {"at_once": "on"})
    assert back.url == f"{address}/"
    instance.refresh_from_db()
    assert (instance.settings, instance.revision) == ({}, 3)
    assert instance.replaces_at_once
    assert instance.revisions.get(number=3).restores == 1
    assert alice_client.post(f"{address}/revisions/9/restore/").status_code == 404


def test_a_revision_that_could_not_start_says_why(
    alice_client: Client, address: str, instance: Instance
) -> None:
    InstanceRevision.objects.update(
        failed_at="2026-01-01T00:00:00Z", failed_message="The disk is full."
    )
    Instance.objects.update(
        rollout_reason=Reason.INSUFFICIENT_CAPACITY, rollout_message="2 GPUs are needed."
    )
    assert b"The disk is full." in alice_client.get(f"{address}/revisions/").content
    page = alice_client.get(f"{address}/")
    assert b"2 GPUs are needed." in page.content
    assert alice_client.post(f"{address}/replace/").status_code == 302
    instance.refresh_from_db()
    assert (instance.replaces_at_once, instance.rollout_reason) == (True, "")


def test_a_schedule_is_kept_shown_and_replaced(
    alice_client: Client, address: str, instance: Instance
) -> None:
    assert alice_client.post(f"{address}/settings/schedule/", ENTRY | NIGHT).status_code == 302
    entry = instance.schedule.get()
    assert (entry.weekdays, entry.starts, entry.ends) == (7, time(20), time(7, 30))
    assert (entry.replica_count, entry.time_zone) == (0, "Asia/Taipei")
    page = alice_client.get(f"{address}/settings/")
    assert page.context["entries"][0]["days"].value() == [1, 2, 4]
    wrong = ENTRY | NIGHT | {"form-0-starts": ""}
    page = alice_client.post(f"{address}/settings/schedule/", wrong)
    assert page.status_code == 422
    assert page.context["entries"][0].errors["starts"]
    alice_client.post(f"{address}/settings/schedule/", ENTRY | {"form-0-starts": "20:00"})
    assert not instance.schedule.exists()


def test_sleep_and_wake_are_buttons(alice_client: Client, address: str, instance: Instance) -> None:
    assert b"/sleep/" in alice_client.get(f"{address}/").content
    alice_client.post(f"{address}/sleep/")
    instance.refresh_from_db()
    assert instance.desired == "asleep"
    page = alice_client.get(f"{address}/").content
    assert b"/wake/" in page
    assert b"/restart/" not in page
    alice_client.post(f"{address}/wake/")
    instance.refresh_from_db()
    assert instance.desired == "running"


@pytest.mark.parametrize("part", ["settings/", "settings/schedule/", "revisions/1/restore/"])
def test_only_who_may_manage_instances_changes_them(
    bob: User, charlie_client: Client, address: str, part: str, instance: Instance
) -> None:
    bob.memberships.update(role=Role.VIEWER)
    body = {"form": "running", "replica_count": "3"}
    assert signed_in(bob).post(f"{address}/{part}", body).status_code == 403
    assert charlie_client.post(f"{address}/{part}", body).status_code == 404
    theirs = address.replace("acme", "umbrella")
    assert charlie_client.post(f"{theirs}/{part}", body).status_code == 404
    instance.refresh_from_db()
    assert instance.replica_count == 1


def test_a_viewer_reads_them(bob: User, address: str) -> None:
    bob.memberships.update(role=Role.VIEWER)
    for part in ("settings/", "revisions/"):
        page = signed_in(bob).get(f"{address}/{part}")
        assert page.status_code == 200
        assert b"Roll back" not in page.content
