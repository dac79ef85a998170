"""What a model costs: a million tokens, and 1,000 characters of the reader's language."""

from dataclasses import dataclass
from decimal import Decimal

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from billing import price_list, wallet
from billing.models import Rate, Terms
from billing.models.price import NANO
from billing.price_list import Line
from inference import text_size
from inference.model_card import ModelCard

M = Rate.Meter
LANGUAGES: dict[str, str | Promise] = {
    "en": _("English"),
    "zh-hant": _("Traditional Chinese"),
    "zh-hans": _("Simplified Chinese"),
    "ja": _("Japanese"),
}


@dataclass(frozen=True)
class Text:
    """1,000 characters in one language: tokens, and units of the currency to read and to write."""

    language: str | Promise
    tokens: int
    read: Decimal
    written: Decimal


@dataclass(frozen=True)
class ModelPrices:
    currency: str
    lines: list[Line]  # the most specific first; none: there is no price
    terms: Terms | None  # the organization's own
    texts: list[Text]  # the reader's language first; at the price that is least specific


def of_model(organization: Organization, card: ModelCard, language: str) -> ModelPrices:
    """For this organization, now. `language` is one of `text_size.TEXTS`."""
    now = timezone.now()
    versions = price_list.of_organization(organization)
    lines = price_list.for_model(versions, card.model_id, now)
    return ModelPrices(
        wallet.currency_of(organization),
        lines,
        price_list.terms_of(organization, now),
        _texts(lines[-1], card, language) if lines else [],
    )


def _texts(line: Line, card: ModelCard, reader: str) -> list[Text]:
    sizes = text_size.tokens_per_thousand(card)
    return [
        Text(
            LANGUAGES[name], tokens, _per(tokens, line, M.PROMPT), _per(tokens, line, M.COMPLETION)
        )
        for name, tokens in sorted(sizes.items(), key=lambda size: size[0] != reader)
    ]


def _per(tokens: int, line: Line, meter: Rate.Meter) -> Decimal:
    cost = Decimal(tokens * line.nano[meter.value]) / 1_000_000 / NANO
    return cost.normalize() if cost else Decimal(0)
