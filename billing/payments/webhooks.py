"""The door for Stripe's events. Who knocks is known by the signature over the raw body alone."""

import logging

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from stripe import Event, SignatureVerificationError, WebhookSignature

from billing.payments import events
from billing.payments.client import NotSetUp, client
from portal.lib.errors import Unavailable

log = logging.getLogger(__name__)

LARGEST = 1_000_000  # bytes; Stripe's events are some thousands
TOLERANCE = 300  # seconds between signing and arriving


class Forged(Exception):
    """None of our secrets has signed this, or not lately, or it is no event."""


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """200: done, or none of our business; else Stripe sends it again. 400: forged."""
    try:
        event = _verified(request)
        done = events.receive(event)
    except Forged as forged:
        log.warning("a Stripe event was refused: %s", forged)
        return HttpResponse(status=400)
    except (Unavailable, NotSetUp):
        return HttpResponse(status=503)
    return HttpResponse(status=200 if done else 409)


def _verified(request: HttpRequest) -> Event:
    secrets = settings.ENV.stripe_webhook_secrets
    if not secrets:
        raise NotSetUp
    if int(request.headers.get("Content-Length") or 0) > LARGEST:
        raise Forged("too large")
    body = request.body
    signature = request.headers.get("Stripe-Signature", "")
    if not any(_signed(body, signature, secret) for secret in secrets):
        raise Forged("not signed by us")
    try:
        event = client().construct_event_without_verification(body)
        if bool(event.livemode) != settings.ENV.stripe_is_live:
            raise Forged("of the other mode")
        event.id, event.type, event.created, event.data.object  # noqa: B018  all are there
    except (ValueError, AttributeError, TypeError) as error:
        raise Forged("no event") from error
    return event


def _signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, signature, secret, TOLERANCE))
    except (SignatureVerificationError, ValueError):
        return False
