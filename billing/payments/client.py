"""The way to Stripe, or to its stand-in on this machine."""

from functools import lru_cache

import requests
import stripe
from django.conf import settings
from django.utils.translation import gettext_lazy as _
from stripe import HTTPClient, RequestsClient, StripeClient

from portal.lib.errors import Refusal, Unavailable

PATIENCE = 20  # seconds for an answer; a person may be waiting

# It would tell of this machine, and keep an id in the home of whoever runs us.
stripe.enable_telemetry = False

AWAY = _("The payment service does not answer at the moment. Nothing was charged; try again soon.")


class NotSetUp(Refusal):
    """There is no key."""

    def __init__(self) -> None:
        super().__init__(_("Payments are not set up here. Ask your operator for credit."))


class Away(Unavailable):
    """Stripe did not answer, or not in a way that says what happened."""

    def __init__(self) -> None:
        super().__init__(AWAY)


def client() -> StripeClient:
    """Raises NotSetUp."""
    env = settings.ENV
    if not env.stripe_secret_key:
        raise NotSetUp
    return _client(env.stripe_secret_key, env.stripe_api_base)


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> StripeClient:
    # No retries in there: the outbox tries again, and a person who waits is told.
    return StripeClient(
        key,
        base_addresses={"api": base, "meter_events": base} if base else None,
        max_network_retries=0,
        http_client=http_client(base),
    )


def http_client(base: str) -> HTTPClient:
    if not base:
        return RequestsClient(timeout=PATIENCE)
    session = requests.Session()
    session.trust_env = False  # a proxy knows nothing of this machine's own addresses
    return RequestsClient(timeout=PATIENCE, session=session)


def is_final(error: stripe.StripeError) -> bool:
    """Whether asking again in the same words would bring the same answer."""
    if isinstance(error, stripe.IdempotencyError):
        return error.http_status == 400
    return isinstance(error, stripe.CardError | stripe.InvalidRequestError)


def is_remembered(error: stripe.StripeError) -> bool:
    """Whether Stripe keeps a failure of its own under the idempotency key: only another key, once
    it is known that nothing was done, can bring something else."""
    replayed = (error.headers or {}).get("idempotent-replayed") == "true"
    return replayed and (error.http_status or 0) >= 500


def code_of(error: stripe.StripeError) -> str:
    """Why, in Stripe's short words: "insufficient_funds", "card_declined"."""
    details = error.error
    declined = getattr(details, "decline_code", None) if details is not None else None
    return str(declined or error.code or type(error).__name__)[:64]
