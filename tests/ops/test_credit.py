"""The operator gives credit by hand, and says how an organization pays."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization
from billing import wallet
from billing.ledger import Kind
from billing.models import Grant, LedgerTransaction
from billing.money import NANO
from tests.cast import person, signed_in


@pytest.fixture
def operator(db: None) -> Client:
    user = person("olga@operator.example")
    user.is_staff = True
    user.save()
    return signed_in(user)


def give(operator: Client, acme: Organization, **changes: str) -> dict[str, str]:
    """What a browser would send from a page that it has opened."""
    form = operator.get(reverse("ops-credit", args=[acme.id])).context["form"]
    sent = {"kind": "purchase", "amount": "25", "reason": "PO 4711", "last_day": ""}
    return sent | {"asked": form["asked"].value()} | changes


def test_a_purchase_order_becomes_credit_that_the_tenant_sees(
    operator: Client, acme: Organization, alice_client: Client
) -> None:
    where = reverse("ops-credit", args=[acme.id])
    assert operator.post(where, give(operator, acme, amount="1,250.50")).status_code == 302
    assert wallet.funds(acme).wallet == 1_250_500_000_000
    assert "PO 4711" in alice_client.get("/o/acme/billing/ledger/").content.decode()


@pytest.mark.parametrize("kind", ["purchase", "grant"])
def test_sent_twice_it_is_given_once(operator: Client, acme: Organization, kind: str) -> None:
    sent = give(operator, acme, kind=kind)
    for _ in range(2):
        assert operator.post(reverse("ops-credit", args=[acme.id]), sent).status_code == 302
    assert wallet.funds(acme).available == 25 * NANO
    assert LedgerTransaction.objects.count() == 1


def test_a_grant_holds_to_the_end_of_its_last_day(operator: Client, acme: Organization) -> None:
    last = (timezone.now() + timedelta(days=30)).astimezone(UTC).date()
    sent = give(operator, acme, kind="grant", reason="NSTC 113", last_day=str(last))
    operator.post(reverse("ops-credit", args=[acme.id]), sent)
    given = Grant.objects.get()
    assert given.expires_at == datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(1)
    assert given.reason == "NSTC 113"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"reason": ""}, "reason"),
        ({"amount": "0"}, "amount"),
        ({"amount": "-5"}, "amount"),
        ({"amount": "1.234"}, "amount"),
        ({"asked": "forged"}, "asked"),
        ({"kind": "grant", "last_day": "2020-01-01"}, "last_day"),
        ({"kind": "purchase", "last_day": "2999-01-01"}, "last_day"),
    ],
)
def test_what_is_wrong_gives_nothing(
    operator: Client, acme: Organization, wrong: dict[str, str], field: str
) -> None:
    answer = operator.post(reverse("ops-credit", args=[acme.id]), give(operator, acme, **wrong))
    assert answer.status_code == 422
    assert set(answer.context["form"].errors) == {field}
    assert not LedgerTransaction.objects.exists()


def test_it_is_stopped_and_goes_on(operator: Client, acme: Organization) -> None:
    where = reverse("ops-credit-terms", args=[acme.id])
    operator.post(where, {"postpaid": "on", "blocked": "on"})
    profile = wallet.profile_of(acme)
    assert profile.postpaid
    stopped = profile.blocked_at
    operator.post(where, {"blocked": "on"})  # again: since when does not change
    assert wallet.profile_of(acme).blocked_at == stopped is not None
    operator.post(where, {})
    profile = wallet.profile_of(acme)
    assert (profile.postpaid, profile.blocked_at) == (False, None)


@pytest.mark.parametrize("name", ["ops-credit", "ops-credit-terms"])
def test_nobody_else_finds_it(acme: Organization, alice_client: Client, name: str) -> None:
    sent = {"kind": "purchase", "amount": "25", "reason": "mine", "asked": "x"}
    assert alice_client.post(reverse(name, args=[acme.id]), sent).status_code == 404
    assert Client().post(reverse(name, args=[acme.id]), sent).status_code == 302
    assert not LedgerTransaction.objects.filter(kind=Kind.CREDIT).exists()
