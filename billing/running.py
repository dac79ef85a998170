"""What an hour of a running instance costs by the prices of now."""

from dataclasses import dataclass

from django.db.models import Q
from django.utils import timezone

from accounts.models import Organization
from billing import rating
from billing.models import PriceVersion, Rate
from billing.price_choice import choose
from billing.pricing import WHOLE
from billing.wallet import profile_of


@dataclass(frozen=True)
class Running:
    """What runs, or would; of `gpu_count` 0 it computes on processors alone."""

    model_id: str
    engine: str
    gpu_count: int
    gpu_type: str | None  # None: that is not known yet

    @property
    def meter(self) -> str:
        return (Rate.Meter.GPU_SECOND if self.gpu_count else Rate.Meter.CPU_SECOND).value


class Hours:
    """One organization's prices of an hour, as they are now."""

    def __init__(self, organization: Organization) -> None:
        self._at = timezone.now()
        books = Q(book__organization=None) | Q(book__organization=organization)
        found = PriceVersion.objects.filter(
            books, book__currency=profile_of(organization).currency, effective_at__lte=self._at
        )
        self._versions = list(found.select_related("book").prefetch_related("rates"))
        id_ = organization.id.bytes
        terms = rating.terms_at(rating.terms_of([id_]), id_, int(self._at.timestamp() * 1_000_000))
        self._discount = terms.discount if terms else 0

    def cost(self, running: Running) -> int:
        """Nano-units, rounded up; of one whose GPUs are not known yet, on the dearest. What is
        free in a month is not taken off."""
        versions = [
            version for version in self._versions if version.ends or running.meter in version.nano
        ]
        types = {running.gpu_type or ""}
        if running.gpu_type is None:
            types |= {version.gpu_type for version in versions}
        rate = 0
        for gpu_type in types:
            version = choose(
                versions,
                self._at,
                model=running.model_id,
                engine=running.engine,
                gpu_type=gpu_type,
            )
            rate = max(rate, version.nano[running.meter] if version else 0)
        return -(-rate * (running.gpu_count or 1) * (WHOLE - self._discount) // WHOLE)
