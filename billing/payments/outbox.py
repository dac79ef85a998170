"""The outbox: calls to Stripe that are rows until they are answered.

A call is committed before it is sent, and has an idempotency key of its own. Whatever happens in
between (a crash, a time-out, an answer that is lost), it is sent again in the same words under the
same key, and Stripe does it once. Stripe forgets keys after a day, and remembers failures of its
own: then we first look whether the thing was done, and ask under a new key only if it was not.
"""

import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone
from stripe import StripeClient, StripeError, StripeObject

from billing.models import StripeCall
from billing.payments.client import Away, client, code_of, is_final, is_remembered
from billing.payments.fetching import value_of
from billing.payments.operations import OPERATIONS

log = logging.getLogger(__name__)

S = StripeCall.State
KEYS_KEPT = timedelta(hours=20)  # by Stripe: at least 24 hours
CLAIM = timedelta(seconds=90)  # longer than any one try
LONGEST_WAIT = 3600  # seconds between tries
GONE = timedelta(minutes=10)  # by then nobody waits for a page's answer


def send(call: StripeCall) -> StripeCall:
    """Try once, unless somebody else is at it; the call as it is afterwards.

    Raises NotSetUp. Must not run in a transaction: what is sent has to be in the database.
    """
    stripe = client()
    if not _claim(call):
        call.refresh_from_db()
        return call
    call.refresh_from_db()
    try:
        answer = _found(stripe, call) or _sent(stripe, call)
    except StripeError as error:
        _failed(call, error)
    else:
        _answered(call, answer)
    call.refresh_from_db()
    return call


def send_now(call: StripeCall) -> StripeCall:
    """For a page: try, and once more; the answered call. Raises Away, NotSetUp.

    A call that was refused is handed back too: why, only the caller can tell people.
    """
    for _try in range(2):
        if call.state != S.WAITING:
            break
        call = send(call)
    if call.state == S.WAITING:
        raise Away
    return call


def work(limit: int = 200) -> int:
    """Send what waits and is due, oldest first; how many calls came to an end."""
    _abandon()
    ended = 0
    due = StripeCall.objects.filter(state=S.WAITING, interactive=False)
    due = due.filter(_unclaimed(), not_before__lte=timezone.now())
    for call in due.order_by("id")[:limit]:
        ended += send(call).state != S.WAITING
    return ended


def _unclaimed() -> Q:
    return Q(claimed_until=None) | Q(claimed_until__lt=timezone.now())


@transaction.atomic(durable=True)
def _claim(call: StripeCall) -> bool:
    now = timezone.now()
    mine = StripeCall.objects.filter(_unclaimed(), id=call.id, state=S.WAITING)
    taken = mine.update(
        claimed_until=now + CLAIM, attempts=F("attempts") + 1, sent_at=Coalesce("sent_at", now)
    )
    return taken == 1


def _found(stripe: StripeClient, call: StripeCall) -> StripeObject | None:
    """What was made under a key that is of no more use; else the call gets a new key."""
    assert call.sent_at is not None  # noqa: S101  claimed
    if timezone.now() - call.sent_at < KEYS_KEPT and call.failure != "remembered":
        return None
    if (found := OPERATIONS[call.operation].find(stripe, call)) is not None:
        return found
    StripeCall.objects.filter(id=call.id).update(
        generation=F("generation") + 1, sent_at=timezone.now(), failure=""
    )
    call.refresh_from_db()
    return None


def _sent(stripe: StripeClient, call: StripeCall) -> StripeObject:
    params = dict(call.params)
    if "metadata" in params:
        params["metadata"] = params["metadata"] | {"call": str(call.id)}
    options: Any = {"idempotency_key": call.idempotency_key}
    return OPERATIONS[call.operation].send(stripe, call, params, options)


@transaction.atomic
def _answered(call: StripeCall, answer: Any) -> None:
    fields = {name: value_of(answer, name) for name in ("id", "identifier", "url", "status")}
    kept = {name: value for name, value in fields.items() if value}
    if _end(call, S.DONE, answer=kept, problem="", failure=""):
        OPERATIONS[call.operation].answered(call, answer)


@transaction.atomic
def _failed(call: StripeCall, error: StripeError) -> None:
    # What people typed may stand in Stripe's sentences; they go no further than our own rows.
    problem = str(error.user_message or type(error).__name__)[:500]
    if is_final(error):
        log.warning("Stripe refused %s: %s", call, code_of(error))
        if _end(call, S.REFUSED, failure=code_of(error), problem=problem):
            call.refresh_from_db()
            OPERATIONS[call.operation].refused(call)
        return
    log.warning("%s was not answered (try %s): %s", call, call.attempts, type(error).__name__)
    wait = timedelta(seconds=min(LONGEST_WAIT, 2.0 ** min(call.attempts, 12)))
    StripeCall.objects.filter(id=call.id, state=S.WAITING).update(
        claimed_until=None,
        not_before=timezone.now() + wait,
        failure="remembered" if is_remembered(error) else "",
        problem=problem,
    )


def _end(call: StripeCall, state: str, **fields: Any) -> bool:
    """False where somebody else was first."""
    fields |= {"state": state, "done_at": timezone.now(), "claimed_until": None}
    return StripeCall.objects.filter(id=call.id, state=S.WAITING).update(**fields) == 1


def _abandon() -> None:
    """End what somebody waited for who has gone. If it was done after all, it is of no harm: nobody
    has the address of the page that it made."""
    old = StripeCall.objects.filter(
        _unclaimed(),
        state=S.WAITING,
        interactive=True,
        created_at__lt=timezone.now() - GONE,
    )
    for call in old[:200]:
        with transaction.atomic():
            if _end(call, S.REFUSED, failure="abandoned"):
                call.refresh_from_db()
                OPERATIONS[call.operation].refused(call)
