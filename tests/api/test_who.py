"""What the routes about people, organizations and keys answer."""

from django.core import mail
from django.test import Client

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from tests.api.conftest import Api

OWN = "organizations/acme/"


def test_me_says_who_asks_and_where_they_may(alice_api: Api, alice: User) -> None:
    Organization.found("Other", alice)
    status, me = alice_api("get", "me/")
    assert status == 200
    assert me["user"]["email"] == "alice@acme.example"
    assert [(o["slug"], o["role"]) for o in me["organizations"]] == [("acme", "owner")]
    assert me["management_key"]["name"] == "script"


def test_a_session_sees_all_its_organizations(alice_client: Client, alice: User) -> None:
    Organization.found("Other", alice)
    listed = alice_client.get("/api/v1/organizations/").json()["results"]
    assert [o["slug"] for o in listed] == ["other", "acme"]
    assert alice_client.get("/api/v1/me/").json()["management_key"] is None


def test_a_new_key_is_told_once(alice_api: Api, acme: Organization) -> None:
    status, made = alice_api("post", OWN + "keys/", {"name": "laptop"})
    assert status == 201
    assert ApiKey.authenticate(made["key"], ApiKey.Kind.API).id.hex == made["id"].replace("-", "")
    _, again = alice_api("get", OWN + f"keys/{made['id']}/")
    assert "key" not in again
    _, listed = alice_api("get", OWN + "keys/?kind=api")
    assert [k["name"] for k in listed["results"]] == ["laptop"]
    assert made["key"] not in str(listed)


def test_deleting_a_key_ends_it(alice_api: Api) -> None:
    _, made = alice_api("post", OWN + "keys/", {"name": "laptop"})
    assert alice_api("delete", OWN + f"keys/{made['id']}/") == (204, None)
    assert ApiKey.authenticate(made["key"], ApiKey.Kind.API) is None
    _, shown = alice_api("get", OWN + f"keys/{made['id']}/")
    assert shown["revoked_at"] is not None


def test_rotating_a_key_makes_its_successor(alice_api: Api) -> None:
    _, made = alice_api("post", OWN + "keys/", {"name": "server"})
    address = OWN + f"keys/{made['id']}/rotate/"
    status, new = alice_api("post", address, {"overlap_seconds": 3600})
    assert (status, new["name"]) == (201, "server")
    assert ApiKey.authenticate(made["key"], "api") and ApiKey.authenticate(new["key"], "api")
    assert alice_api("post", address, {})[0] == 409
    assert alice_api("post", address, {"overlap_seconds": -1})[0] == 400


def test_wrong_values_are_named_one_by_one(alice_api: Api) -> None:
    body = {"name": "", "models_allowed": ["nope"], "expires_at": "2001-01-01T00:00:00Z"}
    _, problem = alice_api("post", OWN + "keys/", body)
    assert [e["pointer"] for e in problem["errors"]] == ["#/name"]
    status, problem = alice_api("post", OWN + "keys/", body | {"name": "laptop"})
    assert (status, problem["type"]) == (400, "urn:modelport:problem:validation")
    assert {e["pointer"]: e["code"] for e in problem["errors"]} == {
        "#/models_allowed": "unknown_model",
        "#/expires_at": "past",
    }


def test_inviting_mails_a_link_and_withdrawing_ends_it(alice_api: Api) -> None:
    body = {"email": "Guest@Acme.example", "role": "member"}
    status, made = alice_api("post", OWN + "invitations/", body)
    assert (status, made["email"]) == (201, "guest@acme.example")
    assert mail.outbox[0].to == ["guest@acme.example"]
    assert alice_api("post", OWN + f"invitations/{made['id']}/resend/")[0] == 200
    assert len(mail.outbox) == 2
    assert alice_api("delete", OWN + f"invitations/{made['id']}/")[0] == 204
    assert alice_api("get", OWN + "invitations/")[1]["results"] == []


def test_a_member_cannot_be_given_more_than_one_has(acme: Organization, bob: User) -> None:
    acme.memberships.filter(user=bob).update(role=Role.ADMIN)
    _, plain = ApiKey.issue(acme, bob, "script", kind=ApiKey.Kind.MANAGEMENT)
    api = Api(plain)
    owner = acme.memberships.get(role=Role.OWNER)
    me = acme.memberships.get(user=bob)
    assert api("patch", OWN + f"members/{me.id}/", {"role": "owner"})[0] == 403
    assert api("patch", OWN + f"members/{owner.id}/", {"role": "viewer"})[0] == 403
    assert api("delete", OWN + f"members/{owner.id}/")[0] == 403
    body = {"email": "x@acme.example", "role": "owner"}
    assert api("post", OWN + "invitations/", body)[0] == 403


def test_the_last_owner_stays(alice_api: Api, acme: Organization) -> None:
    owner = acme.memberships.get()
    status, problem = alice_api("delete", OWN + f"members/{owner.id}/")
    assert (status, problem["type"]) == (409, "urn:modelport:problem:conflict")
    assert alice_api("patch", OWN + f"members/{owner.id}/", {"role": "admin"})[0] == 409
    assert acme.memberships.get().role == Role.OWNER


def test_a_member_may_leave(acme: Organization, bob: User) -> None:
    client = Client()
    client.force_login(bob)
    _, plain = ApiKey.issue(acme, bob, "laptop")
    me = bob.memberships.get()
    assert client.delete(f"/api/v1/{OWN}members/{me.id}/").status_code == 204
    assert client.get(f"/api/v1/{OWN}").status_code == 404
    assert ApiKey.objects.get(created_by=bob).revoked_at is not None
