"""Pages of people, keys, limits, routes, providers × everyone: signed out to the sign-in, strangers
404, low roles 403."""

import pytest
from django.test import Client

from accounts.models import ApiKey, Invitation, Membership, Organization, Project, User
from accounts.roles import Role
from accounts.urls import tenant
from inference.models import Provider, Route
from inference.models.route import Way
from inference.views.credentials_urls import urlpatterns as credentials
from inference.views.limits_urls import urlpatterns as limits
from inference.views.provider_urls import urlpatterns as providers
from inference.views.route_urls import urlpatterns as routes
from tests.cast import person, signed_in
from tests.inference.making import an_instance

EVERYONE = frozenset(Role)
MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
USERS = MANAGERS | {Role.MEMBER}
# name, method, who passes
PAGES = [
    ("keys", "get", USERS),
    ("key", "get", USERS),
    ("key", "post", USERS),
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
    ("projects", "get", EVERYONE),
    ("projects", "post", MANAGERS),
    ("project-archive", "get", MANAGERS),
    ("project-archive", "post", MANAGERS),
    ("organization-settings", "get", EVERYONE),
    ("organization-settings", "post", MANAGERS),
    ("hub-token", "get", MANAGERS),
    ("hub-token", "post", MANAGERS),
    ("hub-token-remove", "post", MANAGERS),
    ("organization-limits", "get", EVERYONE),
    ("organization-limits", "post", MANAGERS),
    ("member-limits", "get", MANAGERS),
    ("member-limits", "post", MANAGERS),
    ("key-limits", "get", USERS),
    ("key-limits", "post", MANAGERS),
    ("instance-limits", "get", EVERYONE),
    ("instance-limits", "post", USERS),
    ("routes", "get", EVERYONE),
    ("route-create", "get", USERS),
    ("route-create", "post", USERS),
    ("route", "get", USERS),
    ("route", "post", USERS),
    ("route-delete", "get", USERS),
    ("route-delete", "post", USERS),
    ("providers", "get", EVERYONE),
    ("provider-create", "get", MANAGERS),
    ("provider-create", "post", MANAGERS),
    ("provider-rotate", "get", MANAGERS),
    ("provider-rotate", "post", MANAGERS),
    ("provider-remove", "get", MANAGERS),
    ("provider-remove", "post", MANAGERS),
]
ALL = [*tenant, *credentials, *limits, *routes, *providers]
ROUTES = {pattern.name: str(pattern.pattern) for pattern in ALL}


def test_no_page_is_left_out_of_the_table() -> None:
    assert {name for name, _, _ in PAGES} == set(ROUTES)


def address(name: str, organization: Organization, somebody: User, key: ApiKey) -> str:
    target = Membership.objects.create(
        organization=organization, user=person("target@acme.example"), role=Role.VIEWER
    )
    invitation = Invitation.send(
        organization.memberships.get(role=Role.OWNER, user=somebody), "g@x.example", Role.VIEWER
    )
    instance = an_instance(organization, "demo")
    route = Route.make(organization, somebody, name="chat", ways=[Way(instance)])
    provider = Provider.add(
        organization, somebody, name="away", base_url="https://api.example/v1", secret="sk-1"
    )
    path = ROUTES[name]
    for converter, value in (
        ("<uuid:key_id>", key.id),
        ("<uuid:member_id>", target.id),
        ("<uuid:invitation_id>", invitation.id),
        ("<uuid:instance_id>", instance.id),
        ("<uuid:route_id>", route.id),
        ("<uuid:provider_id>", provider.id),
        ("<uuid:project_id>", Project.begin(organization, somebody, "Course").id),
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
