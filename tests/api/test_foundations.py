"""What holds for every REST route: problems, pages, repetition, schema, documentation."""

import threading
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import ApiKey, IdempotentAnswer, Organization, User
from accounts.models.idempotency import LIFETIME
from portal.lib.problems import TYPES
from tests.api.conftest import Api

KEYS = "organizations/acme/keys/"


def test_the_schema_is_valid_and_complete() -> None:
    out = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    assert "/api/v1/organizations/{organization}/keys/{id}/rotate/" in out.getvalue()
    assert "Idempotency-Key" in out.getvalue()
    assert "application/problem+json" in out.getvalue()


def test_the_documentation_runs_no_inline_script(db: None) -> None:
    page = Client().get("/api/v1/docs/")
    assert page.status_code == 200
    policy = page["Content-Security-Policy"]
    assert "script-src 'self';" in policy + ";" and "default-src 'none'" in policy
    assert b"<script>" not in page.content
    script = Client().get("/api/v1/docs/?script=")
    assert "javascript" in script["Content-Type"] and b"/api/v1/schema/" in script.content


def test_a_relaxed_policy_stays_on_the_documentation(db: None) -> None:
    assert "unsafe-inline" in Client().get("/api/v1/docs/")["Content-Security-Policy"]
    assert "unsafe-inline" not in Client().get("/api/v1/me/")["Content-Security-Policy"]


@pytest.mark.parametrize("address", ["nothing/", "organizations/acme/nothing/", "keys", ""])
def test_unknown_addresses_are_problems_too(alice_api: Api, address: str) -> None:
    response = alice_api.raw("get", address)
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:modelport:problem:not-found"
    assert problem["instance"] == f"/api/v1/{address}"
    assert problem["request_id"] == response["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path", "sent", "content_type", "status", "kind"),
    [
        ("POST", KEYS, "{", "application/json", 400, "malformed"),
        ("POST", KEYS, "name=x", "text/plain", 415, "unsupported-media-type"),
        ("PUT", KEYS, "{}", "application/json", 405, "method-not-allowed"),
        ("POST", KEYS, "[]", "application/json", 400, "validation"),
        ("POST", KEYS, '{"name": "a\\u0000b"}', "application/json", 400, "validation"),
        ("GET", KEYS + "?kind=nonsense", "", "application/json", 400, "validation"),
        ("GET", KEYS + "?cursor=bm9uc2Vuc2U", "", "application/json", 400, "validation"),
        ("GET", KEYS + "?cursor=cD1hYmM%3D", "", "application/json", 400, "validation"),
        ("GET", KEYS + "?cursor=%FF%FE", "", "application/json", 400, "validation"),
    ],
)
def test_bad_requests_get_their_own_problem(
    alice_api: Api,
    method: str,
    path: str,
    sent: str,
    content_type: str,
    status: int,
    kind: str,
) -> None:
    answer = alice_api.client.generic(method, "/api/v1/" + path, sent, content_type=content_type)
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:modelport:problem:{kind}"


def test_a_bug_is_a_problem_with_an_id_and_no_details(
    alice_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("accounts.api.KeyViewSet.get_queryset", broken)
    alice_api.client.raise_request_exception = False
    response = alice_api.raw("get", KEYS)
    assert response.status_code == 500
    assert "secret detail" not in response.content.decode()
    assert response.json()["request_id"] == response["X-Request-Id"]


def test_pages_are_walked_by_cursor_without_gap_or_repetition(
    alice_api: Api, acme: Organization, alice: User
) -> None:
    made = {str(ApiKey.issue(acme, alice, f"k{i}")[0].id) for i in range(7)}
    seen: list[str] = []
    address = KEYS + "?kind=api&limit=3"
    while address:
        _, page = alice_api("get", address)
        seen += [key["id"] for key in page["results"]]
        if len(seen) == 3:
            ApiKey.issue(acme, alice, "meanwhile")  # newer than where we are: not in the way
        address = (page["next"] or "").removeprefix("http://testserver")
    assert len(seen) == 7 and set(seen) == made


def test_lists_cost_the_same_number_of_queries_at_any_length(
    alice_api: Api, acme: Organization, alice: User, django_assert_max_num_queries: object
) -> None:
    for i in range(20):
        ApiKey.issue(acme, alice, f"k{i}")
    with django_assert_max_num_queries(6):  # type: ignore[operator]
        alice_api("get", KEYS)


def test_the_same_request_twice_is_one_effect_and_one_answer(alice_api: Api) -> None:
    first = alice_api.raw("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    second = alice_api.raw("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second["Idempotency-Replayed"] == "true"
    assert ApiKey.objects.filter(name="laptop").count() == 1


def test_the_same_key_with_another_body_is_refused(alice_api: Api) -> None:
    alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    status, problem = alice_api("post", KEYS, {"name": "server"}, Idempotency_Key="one")
    assert (status, problem["type"]) == (422, "urn:modelport:problem:idempotency-key-reused")
    assert not ApiKey.objects.filter(name="server").exists()


def test_a_refused_request_may_be_mended_under_the_same_key(alice_api: Api) -> None:
    assert alice_api("post", KEYS, {"name": ""}, Idempotency_Key="one")[0] == 400
    assert alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")[0] == 201


def test_nobody_gets_anothers_answer(alice_api: Api, acme: Organization, bob: User) -> None:
    client = Client()
    client.force_login(bob)
    _, hers = alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    his = client.post(
        f"/api/v1/{KEYS}",
        {"name": "laptop"},
        "application/json",
        headers={"Idempotency-Key": "one"},
    ).json()
    assert his["id"] != hers["id"] and his["key"] != hers["key"]


def test_an_answer_is_kept_for_a_day_and_unreadable_in_the_database(alice_api: Api) -> None:
    _, first = alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    with connection.cursor() as cursor:
        cursor.execute("SELECT convert_from(answer, 'latin1') FROM accounts_idempotentanswer")
        (stored,) = cursor.fetchone()
    assert stored and first["key"] not in stored and "laptop" not in stored
    IdempotentAnswer.objects.update(created_at=timezone.now() - LIFETIME * 1.01)
    _, later = alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    assert later["id"] != first["id"]
    IdempotentAnswer.objects.update(created_at=timezone.now() - LIFETIME * 1.01)
    assert IdempotentAnswer.forget_old() == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_nonsensical_key_is_refused(alice_api: Api, key: str) -> None:
    assert alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key=key)[0] == 400


@pytest.mark.django_db(transaction=True)
def test_while_the_first_is_at_work_the_second_is_told_to_wait(
    alice_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    issue = ApiKey.issue

    def slow(*args: object, **kwargs: object) -> object:
        inside.set()
        assert go_on.wait(20)
        return issue(*args, **kwargs)

    answers: list[int] = []

    def first() -> None:
        answers.append(alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")[0])
        connection.close()

    monkeypatch.setattr(ApiKey, "issue", slow)
    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(20)
        second, problem = alice_api("post", KEYS, {"name": "laptop"}, Idempotency_Key="one")
    finally:
        go_on.set()
        thread.join()
    assert (second, problem["type"]) == (409, "urn:modelport:problem:conflict")
    assert answers == [201]
    assert ApiKey.objects.filter(name="laptop").count() == 1


def test_every_problem_type_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for name in (*TYPES.values(), "malformed", "other"):
        assert f"| `{name}` |" in documented
