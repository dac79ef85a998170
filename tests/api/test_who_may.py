"""Every REST route × everyone: 401 without credentials, 404 for strangers, 403 below the role."""

import json

import pytest
from django.test import Client

from accounts.models import ApiKey, Invitation, Membership, Organization, Project, User
from accounts.roles import Role
from billing import budgets, wallet
from billing.ledger import Kind
from inference.gateway.tables import Meter, Window
from inference.models import Limit, Route
from inference.models.route import Way
from portal.api import TENANT_RESOURCES
from tests.api.conftest import Api
from tests.billing.invoicing import an_invoice
from tests.cast import person, signed_in
from tests.inference.making import a_provider, an_instance

OWN = "organizations/acme/"
# path, method, body, the roles that pass; everyone else who is a member gets 403
EVERYONE = frozenset(Role)
MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
USERS = MANAGERS | {Role.MEMBER}
PAYERS = MANAGERS | {Role.BILLING}
NEW_PROVIDER = {"name": "new", "base_url": "https://new.example/v1", "secret": "sk-1"}
RPM = {"meter": "requests", "window": "minute", "amount": 60}
ROUTES = [
    ("get", "members/", None, EVERYONE),
    ("get", "members/{member}/", None, EVERYONE),
    ("patch", "members/{member}/", {"role": "viewer"}, MANAGERS),
    ("delete", "members/{member}/", None, MANAGERS),
    ("get", "invitations/", None, MANAGERS),
    ("post", "invitations/", {"email": "new@acme.example", "role": "viewer"}, MANAGERS),
    ("get", "invitations/{invitation}/", None, MANAGERS),
    ("post", "invitations/{invitation}/resend/", None, MANAGERS),
    ("delete", "invitations/{invitation}/", None, MANAGERS),
    ("get", "keys/", None, USERS),
    ("post", "keys/", {"name": "new"}, USERS),
    ("post", "keys/", {"name": "new", "kind": "management"}, MANAGERS),
    ("patch", "instances/{instance}/", {"queue_size": 5}, USERS),
    ("get", "instances/{instance}/revisions/", None, EVERYONE),
    ("post", "instances/{instance}/revisions/", {"settings": {"max_model_len": 512}}, USERS),
    ("post", "instances/{instance}/sleep/", {}, USERS),
    ("post", "instances/{instance}/wake/", {}, USERS),
    ("get", "adapters/", None, EVERYONE),
    ("get", "adapters/{adapter}/", None, EVERYONE),
    ("delete", "adapters/{adapter}/", None, USERS),
    ("get", "routes/", None, EVERYONE),
    ("post", "routes/", {"name": "new", "targets": [{"instance": "{instance}"}]}, USERS),
    ("get", "routes/{route}/", None, EVERYONE),
    ("patch", "routes/{route}/", {"data_may_leave": True}, USERS),
    ("delete", "routes/{route}/", None, USERS),
    ("get", "providers/", None, EVERYONE),
    ("post", "providers/", NEW_PROVIDER, MANAGERS),
    ("get", "providers/{provider}/", None, EVERYONE),
    ("post", "providers/{provider}/rotate/", {"secret": "sk-2"}, MANAGERS),
    ("delete", "providers/{provider}/", None, MANAGERS),
    ("get", "prices/", None, EVERYONE),
    ("get", "prices/terms/", None, EVERYONE),
    ("get", "projects/", None, EVERYONE),
    ("post", "projects/", {"name": "New"}, MANAGERS),
    ("get", "projects/{project}/", None, EVERYONE),
    ("delete", "projects/{project}/", None, MANAGERS),
    ("get", "balance/", None, PAYERS),
    ("get", "ledger/", None, PAYERS),
    ("get", "ledger/{transaction}/", None, PAYERS),
    ("get", "budgets/", None, PAYERS),
    ("get", "budgets/{budget}/", None, PAYERS),
    ("get", "limits/", None, EVERYONE),
    ("get", "limits/{limit}/", None, EVERYONE),
    ("patch", "limits/{limit}/", {"amount": 5}, MANAGERS),
    ("delete", "limits/{limit}/", None, MANAGERS),
    ("post", "limits/", RPM | {"scope": "organization", "subject": "{acme}"}, MANAGERS),
    ("post", "limits/", RPM | {"scope": "member", "subject": "{member}"}, MANAGERS),
    ("post", "limits/", RPM | {"scope": "key", "subject": "{key}"}, MANAGERS),
    ("post", "limits/", RPM | {"scope": "instance", "subject": "{instance}"}, USERS),
]
BILLERS = frozenset({Role.OWNER, Role.BILLING})
ROUTES += [
    ("get", "invoices/", None, BILLERS),
    ("get", "invoices/{invoice}/", None, BILLERS),
    ("get", "invoices/{invoice}/lines/", None, BILLERS),
]
KEY_ROUTES = [
    ("get", "keys/{key}/", None),
    ("patch", "keys/{key}/", {"origins": ["https://app.example"]}),
    ("post", "keys/{key}/rotate/", {}),
    ("delete", "keys/{key}/", None),
]
PASSES = {200, 201, 204}


@pytest.fixture
def things(acme: Organization, alice: User) -> dict[str, object]:
    target = person("target@acme.example")
    member = Membership.objects.create(organization=acme, user=target, role=Role.VIEWER)
    invitation = Invitation.send(alice.memberships.get(), "guest@acme.example", Role.VIEWER)
    key, _ = ApiKey.issue(acme, alice, "server")
    instance = an_instance(acme, "demo")
    adapter = instance.adapters.create(organization=acme, name="tone", rank=4)
    owner = alice.memberships.get()
    Limit.set_for(acme, {(Meter.TOKENS, Window.DAY): 100}, by=owner)
    return {
        "member": member.id,
        "invitation": invitation.id,
        "key": key.id,
        "acme": acme.id,
        "instance": instance.id,
        "adapter": adapter.id,
        "route": Route.make(acme, alice, name="chat", ways=[Way(instance)]).id,
        "provider": a_provider(acme, alice).id,
        "invoice": an_invoice(acme).number,
        "limit": Limit.objects.get().id,
        "project": Project.begin(acme, alice, "Course").id,
        "transaction": wallet.pay_in(acme, 5, Kind.CREDIT, "paid").id,
        "budget": budgets.set_budget(acme, alice, nano=100).id,
    }


def test_every_resource_is_in_the_table() -> None:
    walked = {path.split("/")[0] for _, path, *_ in ROUTES}
    elsewhere = {"models", "usage"}
    assert walked | elsewhere == {name for name, _ in TENANT_RESOURCES}


def ask(
    client: Client, method: str, path: str, body: object, things: dict[str, object] | None = None
) -> int:
    sent = "" if body is None else json.dumps(body)
    for name, id_ in (things or {}).items():
        sent, path = sent.replace(f"{{{name}}}", str(id_)), path.replace(f"{{{name}}}", str(id_))
    address = f"/api/v1/{OWN}{path}"
    response = client.generic(method.upper(), address, sent, content_type="application/json")
    if response.status_code >= 400:
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["request_id"] == response["X-Request-Id"]
    return response.status_code


@pytest.mark.parametrize(("method", "path", "body", "passes"), ROUTES)
@pytest.mark.parametrize("role", list(Role))
def test_members_by_role(
    things: dict[str, object],
    acme: Organization,
    role: Role,
    method: str,
    path: str,
    body: object,
    passes: frozenset[Role],
) -> None:
    who = person("somebody@acme.example")
    Membership.objects.create(organization=acme, user=who, role=role)
    status = ask(signed_in(who), method, path, body, things)
    assert status in PASSES if role in passes else status == 403


@pytest.mark.parametrize(("method", "path", "body"), KEY_ROUTES)
@pytest.mark.parametrize(
    ("role", "status"), [("owner", 2), ("admin", 2), ("member", 404), ("viewer", 403)]
)
def test_someone_elses_key_is_there_for_those_who_manage_keys_only(
    things: dict[str, object],
    acme: Organization,
    role: str,
    status: int,
    method: str,
    path: str,
    body: object,
) -> None:
    who = person("somebody@acme.example")
    Membership.objects.create(organization=acme, user=who, role=role)
    answer = ask(signed_in(who), method, path, body, things)
    assert answer == status or answer // 100 == status


@pytest.mark.parametrize(
    ("method", "path", "body"), [r[:3] for r in ROUTES] + KEY_ROUTES + [("get", "", None)]
)
def test_outsiders(
    things: dict[str, object],
    charlie_client: Client,
    charlie_api: Api,
    alice: User,
    method: str,
    path: str,
    body: object,
) -> None:
    assert ask(charlie_client, method, path, body, things) == 404
    assert ask(charlie_api.client, method, path, body, things) == 404
    assert ask(Client(), method, path, body, things) == 401
    other = Organization.found("Other", alice)  # her key for it is worth nothing in Acme
    _, plain = ApiKey.issue(other, alice, "other", kind=ApiKey.Kind.MANAGEMENT)
    assert ask(Api(plain).client, method, path, body, things) == 404
    key, plain = ApiKey.issue(other, alice, "old", kind=ApiKey.Kind.MANAGEMENT)
    key.revoke(by=alice)
    assert ask(Api(plain).client, method, path, body, things) == 401


def test_only_management_keys_open_the_api(acme: Organization, alice: User) -> None:
    for kind in (ApiKey.Kind.API, ApiKey.Kind.PLAYGROUND):
        _, plain = ApiKey.issue(acme, alice, "k", kind=kind)
        status, problem = Api(plain)("get", "me/")
        assert (status, problem["type"]) == (401, "urn:modelport:problem:not-authenticated")


def test_a_wrong_key_is_not_helped_by_a_session(alice_client: Client) -> None:
    response = alice_client.get("/api/v1/me/", headers={"Authorization": "Bearer mp-wrong"})
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_a_management_key_acts_with_its_makers_present_role(
    acme: Organization, bob: User, key_of: object
) -> None:
    membership = bob.memberships.get()
    alice_membership = acme.memberships.get(role=Role.OWNER)
    membership.change_role(Role.ADMIN, by=alice_membership)
    api = key_of(acme, bob)  # type: ignore[operator]
    assert api("get", OWN + "invitations/")[0] == 200
    membership.change_role(Role.MEMBER, by=alice_membership)
    assert api("get", OWN + "invitations/")[0] == 401
    membership.change_role(Role.ADMIN, by=alice_membership)
    assert api("get", OWN)[0] == 401  # what ended stays ended


def test_a_session_needs_its_csrf_token(acme: Organization, alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    address = f"/api/v1/{OWN}keys/"
    body = {"name": "laptop"}
    assert client.post(address, body, "application/json").status_code == 403
    token = "t" * 32
    client.cookies["csrftoken"] = token
    headers = {"X-CSRFToken": token}
    assert client.post(address, body, "application/json", headers=headers).status_code == 201


def test_a_management_key_needs_no_csrf_token(acme: Organization, alice: User) -> None:
    _, plain = ApiKey.issue(acme, alice, "script", kind=ApiKey.Kind.MANAGEMENT)
    client = Client(enforce_csrf_checks=True, headers={"Authorization": f"Bearer {plain}"})
    body = {"name": "laptop"}
    assert client.post(f"/api/v1/{OWN}keys/", body, "application/json").status_code == 201


def test_a_signed_out_visitor_is_told_how_to_sign_in(db: None) -> None:
    response = Client().get("/api/v1/me/")
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == 'Bearer realm="api"'
