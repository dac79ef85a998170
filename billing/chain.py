"""The chain of hashes over the books: whoever changes what was posted on a sealed day, even with
all rights on the database, changes its hash and that of every later day.

A day is sealed when it is over (of UTC, by the database's clock) and nothing more can be posted on
it; `billing.ledger_format` says what is hashed. Whoever owns the database could rebuild the chain,
so each head also goes where the database does not reach: a log, a file, a mailbox.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.db.models import Max, Min
from django.utils import timezone
from django.utils.translation import gettext as _

from billing import ledger_rows
from billing.ledger_format import NOTHING_BEFORE, DayHash, Head
from billing.ledger_rows import Posted
from billing.models import Entry, LedgerDay, LedgerTransaction
from portal.lib.locks import key_of

log = logging.getLogger(__name__)

LOCK = key_of("ledger")  # the triggers of the ledger's tables name it too
TRIES = 3
HEAD = re.compile(r"\b(\d{4}-\d\d-\d\d) ([0-9a-f]{64})\b")


class ChainProblem(Exception):
    """A day cannot be sealed now."""


def seal_days() -> list[LedgerDay]:
    """Seal each day that is over and is not sealed, the oldest first, and tell of them.

    Raises ChainProblem, OperationalError (somebody holds the ledger for long: try again later),
    OSError, SMTPException.
    """
    sealed = []
    while (day := next_day()) < today():
        sealed.append(seal(day))
        log.info("ledger: sealed %s", head_line(sealed[-1]))
    export()
    if sealed:
        mail(sealed)
    return sealed


def today() -> date:
    """Of UTC, by the clock that days are given by."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (modelport_ledger_now() AT TIME ZONE 'UTC')::date")
        day: date = cursor.fetchone()[0]
    return day


def next_day() -> date:
    """The day that is sealed next: the one after the last, at first that of the first entry."""
    last = LedgerDay.objects.aggregate(day=Max("day"))["day"]
    if last is not None:
        return last + timedelta(days=1)
    return LedgerTransaction.objects.aggregate(day=Min("day"))["day"] or today()


def seal(day: date) -> LedgerDay:
    """Seal it, once. Raises ChainProblem, OperationalError."""
    for _try in range(TRIES):
        # Hashed without a lock, which for a long day takes seconds; what came meanwhile is found
        # by counting, since nothing can go.
        draft = _draft(day)
        if (sealed := _close(draft)) is not None:
            return sealed
    raise ChainProblem(f"{day} is still posted to")


def head_line(of: LedgerDay) -> str:
    """A day's head as it is exported."""
    return f"{of.day} {of.hash} transactions={of.transactions} entries={of.entries}"


def heads_in(text: str) -> dict[date, str]:
    """Heads out of a file or a letter: each day's hash, the first one that is named."""
    found: dict[date, str] = {}
    for day, hash_ in HEAD.findall(text):
        found.setdefault(date.fromisoformat(day), hash_)
    return found


def export() -> int:
    """Append the heads that the file lacks; how many those were. Raises OSError."""
    path = settings.ENV.ledger_heads
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = heads_in(file.read())
        missing = [day for day in LedgerDay.objects.all() if day.day not in known]
        file.writelines(f"{head_line(day)}\n" for day in missing)
        file.flush()
        os.fsync(file.fileno())
    return len(missing)


def mail(sealed: Iterable[LedgerDay]) -> None:
    """To whom the settings name. A letter that is lost is no harm: the next day's head covers this
    one's. Raises OSError, SMTPException."""
    to = settings.ENV.ledger_heads_mail
    if not to:
        return
    heads = "\n".join(head_line(day) for day in sealed)
    subject = _("The ledger's hash at %(place)s") % {"place": settings.PUBLIC_URL}
    advice = _(
        "Keep this letter. Whether the ledger still is what it was then, this command says; it "
        "takes letters like this one in a file:"
    )
    EmailMessage(
        subject, f"{heads}\n\n{advice}\n\nmodelport ledger verify --heads FILE\n", to=[to]
    ).send()


class Tally:
    """What the row of a day says, found anew from what was posted on it."""

    def __init__(self, day: date, previous: str, sealed_at: datetime | None) -> None:
        at = sealed_at and sealed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._hash = DayHash(Head(day.isoformat(), previous, at or None))
        self.transactions = self.entries = 0
        self.first_entry: int | None = None
        self.last_entry: int | None = None

    def add(self, posted: Posted, accounts: Mapping[str, ledger_rows.Account]) -> None:
        """Raises KeyError: an account is not known."""
        for entry in posted.entries:
            self.entries += 1
            self.first_entry = min(self.first_entry or entry.id, entry.id)
            self.last_entry = max(self.last_entry or entry.id, entry.id)
        if posted.transaction is not None:
            self.transactions += 1
            self._hash.add(ledger_rows.line(posted.transaction, posted.entries, accounts))

    @property
    def hash(self) -> str:
        return self._hash.hex


def _draft(day: date) -> LedgerDay:
    before = LedgerDay.objects.filter(day=day - timedelta(days=1)).first()
    previous = before.hash if before else NOTHING_BEFORE
    now = timezone.now()
    found = Tally(day, previous, now)
    with ledger_rows.snapshot():
        accounts = ledger_rows.accounts()
        for posted in ledger_rows.posted(day, day):
            found.add(posted, accounts)
    return LedgerDay(
        day=day,
        first_entry=found.first_entry,
        last_entry=found.last_entry,
        transactions=found.transactions,
        entries=found.entries,
        previous=previous,
        hash=found.hash,
        sealed_at=now,
    )


@transaction.atomic
def _close(draft: LedgerDay) -> LedgerDay | None:
    """Seal it if nothing was posted since; what another process has sealed already stays."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '2s'")  # everybody who posts waits behind us
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        cursor.execute("SET LOCAL lock_timeout = DEFAULT")
    if (already := LedgerDay.objects.filter(day=draft.day).first()) is not None:
        return already
    transactions = LedgerTransaction.objects.filter(day=draft.day).count()
    entries = Entry.objects.filter(day=draft.day).count()
    if (transactions, entries) != (draft.transactions, draft.entries):
        return None
    draft.save(force_insert=True)
    return draft
