"""Projects: made, chosen for keys, archived."""

import json

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import ApiKey, Organization, Project, User


@pytest.fixture
def course(acme: Organization, alice: User) -> Project:
    return Project.begin(acme, alice, "Course")


def test_a_project_is_made_and_archived_on_its_page(
    acme: Organization, alice_client: Client
) -> None:
    assert "No project yet" in alice_client.get("/o/acme/projects/").content.decode()
    assert alice_client.post("/o/acme/projects/", {"name": " Course "}).status_code == 302
    project = Project.objects.get()
    assert project.name == "Course"
    assert alice_client.post("/o/acme/projects/", {"name": "Course"}).status_code == 422
    assert alice_client.post(f"/o/acme/projects/{project.id}/archive/").status_code == 302
    assert "Archived" in alice_client.get("/o/acme/projects/").content.decode()
    assert alice_client.post("/o/acme/projects/", {"name": "Course"}).status_code == 302


def test_a_key_is_made_for_a_project(alice_client: Client, course: Project) -> None:
    page = alice_client.get("/o/acme/keys/new/")
    assert "Course" in page.content.decode()
    sent = {"name": "k", "kind": "api", "project": str(course.id)}
    alice_client.post("/o/acme/keys/new/", sent | {"asked": page.context["form"]["asked"].value()})
    assert ApiKey.objects.get(name="k").project == course


def test_no_key_for_a_project_that_is_archived_or_a_strangers(
    acme: Organization, alice: User, umbrella: Organization, charlie: User, course: Project
) -> None:
    theirs = Project.begin(umbrella, charlie, "Theirs")
    course.archive()
    for project in (theirs, course):
        with pytest.raises(ValidationError) as error:
            ApiKey.issue(acme, alice, "k", project=project)
        assert set(error.value.error_dict) == {"project"}


def test_the_rest_api_knows_the_projects_of_the_organization_alone(
    alice_client: Client, charlie: User, umbrella: Organization, course: Project
) -> None:
    theirs = Project.begin(umbrella, charlie, "Theirs")

    def make(project: Project) -> int:
        body = json.dumps({"name": "k", "project": str(project.id)})
        where = "/api/v1/organizations/acme/keys/"
        return alice_client.post(where, body, content_type="application/json").status_code

    assert (make(theirs), make(course)) == (400, 201)
    assert ApiKey.objects.get().project == course
