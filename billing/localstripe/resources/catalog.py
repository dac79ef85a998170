"""Products and prices, as far as payment pages and subscriptions need them."""

from decimal import Decimal

from stripe.params._price_create_params import PriceCreateParams
from stripe.params._price_list_params import PriceListParams
from stripe.params._price_retrieve_params import PriceRetrieveParams
from stripe.params._product_create_params import ProductCreateParams
from stripe.params._product_list_params import ProductListParams
from stripe.params._product_retrieve_params import ProductRetrieveParams

from billing.localstripe.errors import ApiError
from billing.localstripe.routing import Routes
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable("product", "/v1/products", ProductRetrieveParams, ProductListParams)
routes.readable("price", "/v1/prices", PriceRetrieveParams, PriceListParams)

_PRODUCT = ("id", "active", "description", "metadata", "name", "unit_label", "tax_code")


@routes("POST", "/v1/products", ProductCreateParams)
def create_product(world: World, p: Object) -> Object:
    fields = {name: p[name] for name in _PRODUCT if name in p}
    product = world.make("product", **({"active": True, "type": "service"} | fields), updated=0)
    world.emit("product.created", product)
    return product


@routes("POST", "/v1/prices", PriceCreateParams)
def create_price(world: World, p: Object) -> Object:
    if ("product" in p) == ("product_data" in p):
        raise ApiError("You must specify one of product or product_data.", param="product")
    if "product" in p:
        product = world.need("product", p["product"], "product")
    else:
        product = create_product(world, p["product_data"])
    recurring = p.get("recurring")
    if recurring and (meter := recurring.get("meter")):
        world.need("billing.meter", meter, "recurring[meter]")
    decimal = p.get("unit_amount_decimal", Decimal(p.get("unit_amount", 0)))
    price = world.make(
        "price",
        active=True,
        billing_scheme="per_unit",
        currency=currency(p["currency"]),
        product=product["id"],
        lookup_key=p.get("lookup_key"),
        nickname=p.get("nickname"),
        metadata=p.get("metadata", {}),
        tax_behavior=p.get("tax_behavior", "unspecified"),
        type="recurring" if recurring else "one_time",
        recurring=recurring and _recurring(recurring),
        unit_amount=int(decimal) if decimal == int(decimal) else None,
        unit_amount_decimal=str(decimal),
    )
    world.emit("price.created", price)
    return price


def _recurring(told: Object) -> Object:
    return {
        "interval": told["interval"],
        "interval_count": told.get("interval_count", 1),
        "usage_type": told.get("usage_type", "licensed"),
        "meter": told.get("meter"),
    }


def currency(code: str) -> str:
    """Raises ApiError."""
    if len(code) != 3 or not code.isalpha() or not code.islower():
        raise ApiError(f"Invalid currency: {code}", param="currency")
    return code


# What a card network takes at least, in the amounts of the API.
_LEAST = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "krw": 500, "twd": 1000, "cny": 400}
_IN_HUNDREDTHS = frozenset({"twd", "ugx"})  # whole units only, told in hundredths


def check_amount(amount: int, code: str, param: str = "amount") -> int:
    """Raises ApiError."""
    if amount < _LEAST.get(code, 1):
        raise ApiError(
            f"Amount must be at least {_LEAST.get(code, 1)} {code}",
            code="amount_too_small",
            param=param,
        )
    if amount > 99_999_999:
        raise ApiError("Amount is too large", code="amount_too_large", param=param)
    if code in _IN_HUNDREDTHS and amount % 100:
        raise ApiError(
            f"Invalid amount: {code} has no decimals; it must be divisible by 100.", param=param
        )
    return amount
