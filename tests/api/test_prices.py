"""Prices and terms over REST."""

from accounts.models import Organization, User
from billing.models import PriceBook, PriceVersion, Terms
from tests.api.conftest import Api
from tests.billing.pricing import TOKENS, a_price

OWN = "organizations/acme/prices/"


def test_prices_over_rest_are_those_that_may_be_for_it(
    alice_api: Api, acme: Organization, umbrella: Organization
) -> None:
    house, twd = a_price(), a_price("TWD")
    own = PriceBook.of_organization(acme, "USD").set_rates(TOKENS, model="x")
    theirs = PriceBook.of_organization(umbrella, "USD").set_rates(TOKENS)
    free = PriceVersion.objects.order_by("effective_at")[0]
    status, answer = alice_api("get", OWN)
    assert status == 200
    assert {(row["id"], row["holds"]) for row in answer["results"]} == {
        (str(own.id), True),
        (str(house.id), True),
        (str(free.id), False),
    }
    (mine,) = alice_api("get", f"{OWN}?model=x")[1]["results"]
    assert mine["own"] and mine["rates"] == TOKENS | {"gpu_second": None, "cpu_second": None}
    assert alice_api("get", f"{OWN}{free.id}/")[0] == 200
    for strange in (theirs, twd):
        assert alice_api("get", f"{OWN}{strange.id}/")[0] == 404


def test_terms_over_rest(alice_api: Api, acme: Organization, alice: User) -> None:
    assert alice_api("get", f"{OWN}terms/")[1] == {
        "effective_at": None,
        "discount": 0,
        "free_tokens": 0,
        "free_nano": 0,
    }
    Terms.agree(acme, alice, discount=1_500, free_tokens=7)
    told = alice_api("get", f"{OWN}terms/")[1]
    assert (told["discount"], told["free_tokens"]) == (1_500, 7)
