"""Every page of accounts × everyone: signed out to the sign-in, strangers 404, low roles 403."""

import pytest
from django.test import Client

from accounts.models import ApiKey, Invitation, Membership, Organization, User
from accounts.roles import Role
from accounts.urls import tenant
from inference.views.credentials_urls import urlpatterns as credentials
from tests.cast import person, signed_in

EVERYONE = frozenset(Role)
MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
USERS = MANAGERS | {Role.MEMBER}
# name, method, who passes
PAGES = [
    ("keys", "get", USERS),
    ("key-create", "get", USERS),
    ("key-create", "post", USERS),
    ("key-revoke", "get", USERS),
    ("key-revoke", "post", USERS),
    ("key-rotate", "get", USERS),
    ("key-rotate", "post", USERS),
    ("members", "get", EVERYONE),
    ("member-role", "post", MANAGERS),
    ("member-remove", "get", EVERYONE),
    ("member-remove", "post", MANAGERS),
    ("invitation-create", "post", MANAGERS),
    ("invitation-resend", "post", MANAGERS),
    ("invitation-revoke", "post", MANAGERS),
    ("organization-settings", "get", EVERYONE),
    ("organization-settings", "post", MANAGERS),
    ("hub-token", "get", MANAGERS),
    ("hub-token", "post", MANAGERS),
    ("hub-token-remove", "post", MANAGERS),
]
ROUTES = {pattern.name: str(pattern.pattern) for pattern in [*tenant, *credentials]}


def test_no_page_is_left_out_of_the_table() -> None:
    assert {name for name, _, _ in PAGES} == set(ROUTES)


def address(name: str, organization: Organization, somebody: User, key: ApiKey) -> str:
    target = Membership.objects.create(
        organization=organization, user=person("target@acme.example"), role=Role.VIEWER
    )
    invitation = Invitation.send(
        organization.memberships.get(role=Role.OWNER, user=somebody), "g@x.example", Role.VIEWER
    )
    path = ROUTES[name]
    for converter, value in (
        ("<uuid:key_id>", key.id),
        ("<uuid:member_id>", target.id),
        ("<uuid:invitation_id>", invitation.id),
    ):
        path = path.replace(converter, str(value))
    return f"/o/{organization.slug}/{path}"


@pytest.mark.parametrize(("name", "method", "passes"), PAGES)
@pytest.mark.parametrize("role", list(Role))
def test_members_by_role(
    acme: Organization, alice: User, role: Role, name: str, method: str, passes: frozenset[Role]
) -> None:
    who = person("somebody@acme.example")
    membership = Membership.objects.create(organization=acme, user=who, role=Role.OWNER)
    key, _ = ApiKey.issue(acme, who, "own")
    membership.role = role
    membership.save()
    page = getattr(signed_in(who), method)(address(name, acme, alice, key))
    if role in passes:
        assert page.status_code in {200, 302, 422}
        assert page.status_code == 302 or page["Content-Security-Policy"]
    else:
        assert page.status_code == 403


@pytest.mark.parametrize(("name", "method", "passes"), PAGES)
def test_outsiders(
    acme: Organization,
    alice: User,
    charlie_client: Client,
    name: str,
    method: str,
    passes: frozenset[Role],
) -> None:
    key, _ = ApiKey.issue(acme, alice, "k")
    where = address(name, acme, alice, key)
    assert getattr(charlie_client, method)(where).status_code == 404
    signed_out = getattr(Client(), method)(where)
    assert signed_out.status_code == 302
    assert signed_out.url.startswith("/account/login/?next=/o/acme/")


@pytest.mark.parametrize(
    "name", [name for name, method, _ in PAGES if method == "post" and "create" not in name]
)
def test_without_a_csrf_token_nothing_happens(acme: Organization, alice: User, name: str) -> None:
    key, _ = ApiKey.issue(acme, alice, "k")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post(address(name, acme, alice, key)).status_code == 403


def test_founding_an_organization_takes_a_person(db: None) -> None:
    assert Client().get("/organizations/new/").status_code == 302
