"""What the stand-in takes and answers is what stripe-python's types say."""

from typing import Any

import pytest
import stripe
from stripe import StripeClient

from billing.localstripe.contract import BrokenContract, complete
from billing.localstripe.store import Store
from billing.localstripe.world import World
from tests.fakes.stripe import Direct


@pytest.fixture
def world() -> World:
    return World(Store())


@pytest.fixture
def client(world: World) -> StripeClient:
    return StripeClient("sk_test_x", http_client=Direct(world))


def session(**more: Any) -> dict[str, Any]:
    price = {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "credit"}}
    items = [{"quantity": 1, "price_data": price}]
    return {"mode": "payment", "success_url": "http://x/", "line_items": items} | more


@pytest.mark.parametrize(
    ("params", "param", "words"),
    [
        (session(colour="red"), "colour", "unknown parameter"),
        (session(automatic_tax={"enabled": True, "x": 1}), "automatic_tax[x]", "unknown parameter"),
        (session(automatic_tax="yes"), "automatic_tax", "Invalid object"),
        (session(automatic_tax={"liability": {"type": "self"}}), "automatic_tax", "Missing"),
        (session(mode="pay"), "mode", "payment, setup, subscription"),
        (session(expires_at="soon"), "expires_at", "Invalid integer"),
        (session(allow_promotion_codes="perhaps"), "allow_promotion_codes", "Invalid boolean"),
        (session(line_items="one"), "line_items", "Invalid array"),
        (session(customer="cus_of_nobody"), "customer", "No such customer"),
        ({"mode": "payment"}, "success_url", "Missing required"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(client, params, param: str, words: str) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=words) as refused:
        client.v1.checkout.sessions.create(params)
    assert refused.value.param.startswith(param.partition("[")[0])


@pytest.mark.parametrize(
    ("currency", "amount", "words"),
    [
        ("usd", 49, "at least 50"),
        ("twd", 30_050, "divisible by 100"),
        ("USD", 500, "Invalid currency"),
        ("usd", 100_000_000, "too large"),
    ],
)
def test_amounts_that_a_card_network_would_not_take_are_refused(client, currency, amount, words):
    with pytest.raises(stripe.InvalidRequestError, match=words):
        client.v1.payment_intents.create({"amount": amount, "currency": currency})


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "cus_1", "created": 1, "favourite_colour": "red"},
        {"id": "cus_1", "created": None},
        {"id": "cus_1", "created": "yesterday"},
        {"id": 7, "created": 1},
        {"id": "cus_1", "created": 1, "tax_exempt": "perhaps"},
        {"created": 1},
    ],
)
def test_an_object_that_the_library_does_not_expect_is_not_answered(fields) -> None:
    with pytest.raises(BrokenContract):
        complete("customer", fields)


def test_objects_have_every_field_that_stripe_sends(client) -> None:
    customer = client.v1.customers.create({"name": "Acme"})
    named = {n for n in stripe.Customer.__annotations__ if not n.startswith("_")}
    absent = {"deleted", "OBJECT_NAME", "sources", "subscriptions", "tax_ids"}
    assert set(customer.to_dict()) == named - absent
