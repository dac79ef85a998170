"""The stand-in keeps state, keys, pages and errors as Stripe does."""

import pytest
import stripe
from stripe import StripeClient

from billing.localstripe import control
from billing.localstripe.api import Api
from billing.localstripe.errors import ApiError
from billing.localstripe.faults import Faults
from billing.localstripe.store import Store
from billing.localstripe.world import World
from tests.fakes.stripe import Direct


@pytest.fixture
def world() -> World:
    return World(Store())


@pytest.fixture
def client(world: World) -> StripeClient:
    return StripeClient("sk_test_x", http_client=Direct(world))


def test_under_one_key_a_thing_is_done_once(client, world) -> None:
    options = {"idempotency_key": "a"}
    first = client.v1.customers.create({"name": "Acme"}, options)
    assert client.v1.customers.create({"name": "Acme"}, options).id == first.id
    with pytest.raises(stripe.IdempotencyError) as refused:
        client.v1.customers.create({"name": "Umbrella"}, options)
    assert refused.value.http_status == 400
    assert len(list(world.store.all("customer"))) == 1
    control.act(world, "forget_keys", {})
    assert client.v1.customers.create({"name": "Acme"}, options).id != first.id


def test_what_was_malformed_is_not_remembered(client) -> None:
    options = {"idempotency_key": "a"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create({"nme": "Acme"}, options)
    assert client.v1.customers.create({"name": "Acme"}, options).name == "Acme"


def test_a_declined_card_is_remembered_and_its_payment_kept(client, world) -> None:
    asked = {
        "amount": 500,
        "currency": "usd",
        "payment_method": "pm_card_chargeDeclinedInsufficientFunds",
        "confirm": True,
    }
    ids = set()
    for _try in range(2):
        with pytest.raises(stripe.CardError) as declined:
            client.v1.payment_intents.create(asked, {"idempotency_key": "a"})
        assert declined.value.http_status == 402
        assert declined.value.error.decline_code == "insufficient_funds"
        ids.add(declined.value.error.payment_intent.id)
    (id_,) = ids
    found = client.v1.payment_intents.retrieve(id_)
    assert (found.status, found.amount_received) == ("requires_payment_method", 0)


def test_a_lost_answer_was_done_all_the_same(client, world) -> None:
    world.faults = Faults(lost_answers=1.0)
    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "a"})
    world.faults = Faults()
    client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "a"})
    assert len(list(world.store.all("customer"))) == 1


def test_a_failure_may_be_remembered(client, world) -> None:
    world.faults = Faults(failures=1.0, remembered=1.0)
    with pytest.raises(stripe.APIError):
        client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "a"})
    world.faults = Faults()
    with pytest.raises(stripe.APIError) as again:
        client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "a"})
    assert again.value.headers["idempotent-replayed"] == "true"
    assert not list(world.store.all("customer"))


@pytest.mark.parametrize("key", ["sk_live_x", "rk_live_x", "pk_test_x", "nonsense"])
def test_live_and_odd_keys_are_refused(world, key: str) -> None:
    client = StripeClient(key, http_client=Direct(world))
    with pytest.raises(stripe.AuthenticationError):
        client.v1.customers.list()


def test_another_version_of_the_api_is_refused(world) -> None:
    client = StripeClient("sk_test_x", stripe_version="2020-08-27", http_client=Direct(world))
    with pytest.raises(stripe.InvalidRequestError, match="version"):
        client.v1.customers.list()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/customers/cus_none", 404),
        ("GET", "/v1/nonsense", 404),
        ("PUT", "/v1/customers", 404),
        ("GET", "/v1/customers?limit=0", 400),
        ("GET", "/v1/customers?starting_after=cus_none", 400),
        ("GET", "/v1/customers?expand[0]=data.nothing", 400),
        ("GET", "/v1/customers?a[b][c][d][e][f][g][h][i][j][k][l]=1", 400),
        ("GET", "/v1/customers?a=1&a[b]=2", 400),
        ("GET", "/v1/customers?[=1", 400),
    ],
)
def test_errors_have_stripes_shape(world, method: str, path: str, status: int) -> None:
    world.make("customer", name="somebody")
    answer = Api(world).call(method, path, {"authorization": "Bearer sk_test_x"})
    assert answer.status == status
    assert '"error"' in answer.body and answer.headers["request-id"].startswith("req_")


def test_lists_have_pages_and_filters(client, world) -> None:
    ids = [client.v1.customers.create({"email": f"{n}@x.example"}).id for n in range(25)]
    assert [c.id for c in client.v1.customers.list({"limit": 7}).auto_paging_iter()] == ids[::-1]
    assert len(client.v1.customers.list().data) == 10
    (found,) = client.v1.customers.list({"email": "3@x.example"}).data
    assert found.id == ids[3]
    assert not client.v1.customers.list({"created": {"gt": world.now + 5}}).data
    before = client.v1.customers.list({"ending_before": ids[20], "limit": 2}).data
    assert [c.id for c in before] == [ids[22], ids[21]]


def test_ids_are_expanded_to_objects_where_asked(client) -> None:
    asked = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = client.v1.payment_intents.create(asked)
    assert intent.latest_charge.startswith("ch_")
    expand = {"expand": ["latest_charge.balance_transaction"]}
    found = client.v1.payment_intents.retrieve(intent.id, expand)
    assert found.latest_charge.balance_transaction.net < 500
    (listed,) = client.v1.payment_intents.list({"expand": ["data.latest_charge"]}).data
    assert listed.latest_charge.paid


def test_of_an_hour_the_last_meter_event_counts(client, world) -> None:
    customer = client.v1.customers.create({}).id
    meter = {"display_name": "u", "event_name": "u", "default_aggregation": {"formula": "sum"}}
    made = client.v1.billing.meters.create(meter | {"event_time_window": "hour"})
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.billing.meters.create(meter)

    def tell(value: int, at: int, identifier: str = "") -> None:
        told = {"event_name": "u", "timestamp": at}
        told["payload"] = {"stripe_customer_id": customer, "value": str(value)}
        client.v1.billing.meter_events.create(
            told | ({"identifier": identifier} if identifier else {})
        )

    price = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": made.id},
            "product_data": {"name": "u"},
        }
    )
    hour = world.now // 3600 * 3600 - 7200
    subscription = client.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price.id}]}
    )
    id_ = subscription.items.data[0].id
    item = world.need("subscription_item", id_) | {"current_period_start": hour}
    world.store.put(item)
    body = world.need("subscription", subscription.id)
    body["items"]["data"] = [item]
    world.store.put(body)
    for value, at in ((5, hour), (7, hour + 60), (11, hour + 3600)):
        tell(value, at)
    tell(99, hour - 1)  # before the period
    with pytest.raises(stripe.InvalidRequestError):
        tell(1, world.now - 36 * 24 * 3600)
    tell(13, hour + 3700, "once")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        tell(14, hour + 3700, "once")
    with world.store.transaction():
        invoice = control.act(world, "end_period", {"id": subscription.id})
    assert invoice["total"] == 7 + 13


def test_a_charge_is_refunded_up_to_its_amount_and_disputed_once(client, world) -> None:
    asked = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = client.v1.payment_intents.create(asked)
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 200})
    with pytest.raises(stripe.InvalidRequestError, match="greater"):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 301})
    with world.store.transaction():
        control.act(world, "dispute", {"charge_id": intent.latest_charge, "amount": 300})
    with pytest.raises(stripe.InvalidRequestError, match="disputed"):
        client.v1.refunds.create({"payment_intent": intent.id})
    with pytest.raises(ApiError):
        control.act(world, "dispute", {"charge_id": intent.latest_charge})


def test_what_failed_in_the_middle_left_nothing(client, world) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.create(
            {"amount": 500, "currency": "usd", "confirm": True, "payment_method": "pm_none"}
        )
    assert not list(world.store.all("payment_intent"))
    assert not list(world.store.all("event"))


def test_endpoints_are_told_their_secret_once_and_get_what_they_ask_for(client, world) -> None:
    made = client.v1.webhook_endpoints.create(
        {"url": "http://x/", "enabled_events": ["customer.created"]}
    )
    assert made.secret.startswith("whsec_")
    assert client.v1.webhook_endpoints.retrieve(made.id).secret is None
    client.v1.customers.create({})
    client.v1.products.create({"name": "x"})
    (count,) = world.store.db.execute("SELECT count(*) FROM delivery").fetchone()
    assert count == 1
    client.v1.webhook_endpoints.update(made.id, {"disabled": True})
    client.v1.customers.create({})
    (count,) = world.store.db.execute("SELECT count(*) FROM delivery").fetchone()
    assert count == 1


@pytest.mark.parametrize(
    ("what", "told"), [("nonsense", {}), ("faults", {"x": 1}), ("pay", {}), ("pay", {"id": "cs_"})]
)
def test_what_cannot_be_made_to_happen_is_said(world, what: str, told: dict) -> None:
    with pytest.raises(ApiError):
        control.act(world, what, told)
