"""The prices as people and programs read them: what holds, and what is announced."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import Organization
from billing import price_choice, wallet
from billing.models import BillingProfile, PriceBook, PriceVersion, Rate, Terms
from billing.models.price import NANO, PER_REQUEST

M = Rate.Meter
SHOWN = (M.PROMPT, M.CACHED, M.COMPLETION, M.REASONING, M.REQUEST)
TIMES = (M.GPU_SECOND, M.CPU_SECOND)


@dataclass(frozen=True)
class Line:
    """A version as it stands in a list."""

    version: PriceVersion
    comes: bool  # it is announced and has not begun

    @property
    def nano(self) -> dict[str, int]:
        return self.version.nano

    @property
    def amounts(self) -> list[Decimal | None]:
        """In units of the currency, in the order of SHOWN; None where it says nothing of it."""
        return [amount(self.nano.get(meter.value)) for meter in SHOWN]

    @property
    def times(self) -> list[Decimal | None]:
        """The same in the order of TIMES: for an hour."""
        return [amount(self.nano.get(meter.value)) for meter in TIMES]


def amount(nano: int | None) -> Decimal | None:
    """Units of the currency, exactly, without idle zeros."""
    if nano is None:
        return None
    whole = Decimal(nano) / NANO
    short = whole.normalize()
    return short if int(short.as_tuple().exponent) <= 0 else short.quantize(Decimal(1))


def of_book(book: PriceBook) -> list[PriceVersion]:
    """All of its versions, the newest first, ready to be shown."""
    return list(book.versions.select_related("book").prefetch_related("rates"))


def of_organization(organization: Organization) -> QuerySet[PriceVersion]:
    """All that may be for it: its own and the house's, in its currency."""
    books = Q(book__organization=None) | Q(book__organization=organization)
    found = PriceVersion.objects.filter(books, book__currency=wallet.currency_of(organization))
    return found.select_related("book").prefetch_related("rates")


def held(versions: Iterable[PriceVersion], now: datetime) -> set[UUID]:
    """The ids of those that hold for something."""
    there, found = list(versions), set()
    for meters in (PER_REQUEST, *({meter.value} for meter in TIMES)):
        found |= {line.version.id for line in lines(there, now, meters) if not line.comes}
    return found


def lines(
    versions: Iterable[PriceVersion], now: datetime, meters: Iterable[str] = PER_REQUEST
) -> list[Line]:
    """What holds of these, the most specific first, then what is announced, the soonest first."""
    priced = for_meters(versions, meters)
    held = price_choice.possible(priced, now)
    coming = sorted((v for v in priced if v.effective_at > now), key=lambda v: v.effective_at)
    return [Line(v, comes=False) for v in held] + [Line(v, comes=True) for v in coming]


def for_model(versions: Iterable[PriceVersion], model: str, now: datetime) -> list[Line]:
    """What requests to this model may cost, by engine and GPU type, the most specific first."""
    priced = for_meters(versions, PER_REQUEST)
    return [Line(v, comes=False) for v in price_choice.possible(priced, now, model=model)]


def for_meters(versions: Iterable[PriceVersion], meters: Iterable[str]) -> list[PriceVersion]:
    """Those that say something of one of these meters, or end."""
    wanted = set(meters)
    return [version for version in versions if version.ends or wanted & version.nano.keys()]


def currencies() -> list[str]:
    """Those in which the house has prices, the installation's own first."""
    priced = PriceVersion.objects.filter(book__organization=None, ends=False)
    found = set(priced.values_list("book__currency", flat=True))
    return sorted(found, key=lambda code: (code != settings.ENV.currency, code))


def unpriced() -> list[str]:
    """Currencies in use without a price of the house for everything."""
    used = set(BillingProfile.objects.values_list("currency", flat=True)) | {settings.ENV.currency}
    priced = PriceVersion.objects.filter(
        book__organization=None,
        model="",
        engine="",
        gpu_type="",
        effective_at__lte=timezone.now(),
        rates__meter=M.PROMPT,
    )
    return sorted(used - set(priced.values_list("book__currency", flat=True)))


def terms_of(organization: Organization, now: datetime) -> Terms | None:
    """What holds now."""
    theirs = Terms.objects.for_organization(organization)
    return theirs.filter(effective_at__lte=now).first()
