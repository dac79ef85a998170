"""Which price each instance has now. PURE: from the database's rows to `Price`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from billing.price_choice import choose
from inference.gateway.tables import Price

# Of each book the newest that has begun, for each thing that it names. Those with rates for GPU
# time alone are none of the gateway's business.
VERSIONS = """
    SELECT DISTINCT ON (v.book_id, v.model, v.engine, v.gpu_type)
        v.id, b.organization_id, b.currency, v.model, v.engine, v.gpu_type, v.ends, v.effective_at,
        (
            SELECT jsonb_object_agg(r.meter, r.nano) FROM billing_rate r
            WHERE r.version_id = v.id
                AND r.meter IN ('prompt', 'cached', 'completion', 'reasoning', 'request')
        )
    FROM billing_priceversion v JOIN billing_pricebook b ON b.id = v.book_id
    WHERE v.effective_at <= now() AND (v.ends OR EXISTS (
        SELECT FROM billing_rate r WHERE r.version_id = v.id AND r.meter = 'prompt'
    ))
    ORDER BY v.book_id, v.model, v.engine, v.gpu_type, v.effective_at DESC, v.id DESC
"""
CURRENCIES = "SELECT organization_id, currency FROM billing_profile"
DISCOUNTS = """
    SELECT DISTINCT ON (organization_id) organization_id, discount FROM billing_terms
    WHERE effective_at <= now() ORDER BY organization_id, effective_at DESC, id DESC
"""
# Seconds until another price holds; null where none is announced.
NEXT = """
    SELECT EXTRACT(EPOCH FROM min(effective_at) - now())::float8 FROM (
        SELECT effective_at FROM billing_priceversion
        UNION ALL SELECT effective_at FROM billing_terms
    ) AS announced WHERE effective_at > now()
"""

_ALL = datetime.max.replace(tzinfo=UTC)  # what has begun, the database has said already


class Version(msgspec.Struct, frozen=True):
    """A row of VERSIONS."""

    id: UUID
    organization_id: UUID | None
    currency: str
    model: str
    engine: str
    gpu_type: str
    ends: bool
    effective_at: datetime
    rates: dict[str, int] | None

    @property
    def own(self) -> bool:
        return self.organization_id is not None


class Prices:
    """What holds now, for every organization."""

    def __init__(
        self,
        versions: Iterable[tuple[Any, ...]],
        currencies: Iterable[tuple[UUID, str]],
        discounts: Iterable[tuple[UUID, int]],
        default_currency: str,
    ) -> None:
        self._versions: dict[tuple[UUID | None, str], list[Version]] = {}
        for version in (Version(*row) for row in versions):
            whose = version.organization_id, version.currency
            self._versions.setdefault(whose, []).append(version)
        self._currencies = dict(currencies)
        self._discounts = dict(discounts)
        self._default_currency = default_currency

    def of(self, organization_id: bytes, *, model: str, engine: str, gpu_type: str) -> Price:
        """The price of requests; one that is `missing` where there is none."""
        owner = UUID(bytes=organization_id)
        currency = self._currencies.get(owner, self._default_currency)
        house = self._versions.get((None, currency), [])
        own = self._versions.get((owner, currency), [])
        found = choose([*own, *house], _ALL, model=model, engine=engine, gpu_type=gpu_type)
        if found is None or found.rates is None:
            return Price(bytes(16), currency=currency, missing=True)
        discount, rates = self._discounts.get(owner, 0), found.rates
        return Price(
            found.id.bytes,
            rates["prompt"],
            rates["cached"],
            rates["completion"],
            rates["reasoning"],
            rates["request"],
            discount=discount,
            currency=currency,
        )
