"""The usage page shows what the rows say, to those who may see it."""

import csv
import io

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from billing import usage
from tests.billing.records import admit, final


@pytest.fixture
def used(acme: Organization) -> list[str]:
    requests = [admit(acme, model=model) for model in ("alpha", "alpha", "beta")]
    usage.ingest([(request, final(request, prompt=1000)) for request in requests])
    return [str(request.request_id.hex()) for request in requests]


def test_the_page_adds_up_by_day_and_model(alice_client: Client, used: list[str]) -> None:
    page = alice_client.get("/o/acme/usage/").content.decode()
    assert "3,000" in page  # input tokens of all
    assert "2,000" in page  # of alpha
    assert page.count('<rect class="c') == 2  # one day, two models


def test_a_request_is_found_by_its_id(alice_client: Client, used: list[str]) -> None:
    page = alice_client.get(f"/o/acme/usage/?id={used[2]}").content.decode()
    assert "beta" in page
    assert "alpha" not in page
    assert alice_client.get("/o/acme/usage/?id=nonsense").status_code == 200


def test_pages_go_on_by_key(alice_client: Client, acme: Organization) -> None:
    requests = [admit(acme) for _ in range(60)]
    usage.ingest([(request, final(request)) for request in requests])
    first = alice_client.get("/o/acme/usage/")
    assert len(first.context["rows"]) == 50
    second = alice_client.get(f"/o/acme/usage/?after={first.context['next']}")
    assert len(second.context["rows"]) == 10
    assert second.context["next"] is None


def test_the_export_has_every_row_of_the_page(alice_client: Client, used: list[str]) -> None:
    answer = alice_client.get("/o/acme/usage/export/?model=alpha")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [row["prompt_tokens"] for row in rows] == ["1000", "1000"]
    assert answer["Content-Type"] == "text/csv; charset=utf-8"


def test_a_cell_is_never_a_formula(alice_client: Client, acme: Organization) -> None:
    request = admit(acme)
    request.client_request_id = "=HYPERLINK(1)"
    usage.ingest([(request, final(request))])
    assert "'=HYPERLINK(1)" in alice_client.get("/o/acme/usage/export/").getvalue().decode()


def test_strangers_see_nothing(charlie_client: Client, client: Client, used: list[str]) -> None:
    assert charlie_client.get("/o/acme/usage/").status_code == 404
    assert charlie_client.get("/o/acme/usage/export/").status_code == 404
    assert client.get("/o/acme/usage/").status_code == 302
    assert "alpha" not in charlie_client.get("/o/umbrella/usage/").content.decode()


def test_an_empty_period_says_so(alice_client: Client) -> None:
    assert "Nothing was used" in alice_client.get("/o/acme/usage/?days=1").content.decode()


def test_queries_do_not_grow_with_rows(
    alice_client: Client, used: list[str], acme: Organization
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            alice_client.get("/o/acme/usage/")
        return len(captured)

    queries()  # the session is saved once
    few = queries()
    requests = [admit(acme, model=f"model-{number}") for number in range(40)]
    usage.ingest([(request, final(request)) for request in requests])
    assert queries() == few
