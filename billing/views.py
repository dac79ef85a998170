"""The usage page and its export: the same rows, on screen and as a file."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from accounts.models import Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import analytics, csv_rows
from billing.analytics import Period
from billing.models import UsageEvent

PERIODS = (1, 7, 30, 90)  # days
PAGE = 50  # rows
CHART_HEIGHT, CHART_STEP = 120, 12  # in the drawing's own units

EXPORTED = (
    "request_id",
    "admitted_at",
    "model",
    "endpoint",
    "key_id",
    "instance_id",
    "status",
    "outcome",
    "finish_reason",
    "stream",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "source",
    "ttft_us",
    "duration_us",
    "client_request_id",
)


@dataclass(frozen=True)
class Filters:
    """What of the usage to show; everything is in the address, so that it can be passed on."""

    period: Period
    days: int
    model: str
    key: str
    request_id: str

    @classmethod
    def of(cls, request: HttpRequest) -> "Filters":
        asked = request.GET.get("days", "")
        days = int(asked) if asked.isdecimal() and int(asked) in PERIODS else 30
        period = Period.of_days(days, datetime.now(UTC).date())
        text = {name: request.GET.get(name, "").strip()[:200] for name in ("model", "key", "id")}
        return cls(period, days, text["model"], text["key"], text["id"])

    def rows(self, organization: Organization) -> QuerySet[UsageEvent]:
        """The rows they leave."""
        if self.request_id:
            mine = UsageEvent.objects.for_organization(organization)
            wanted = _uuid(self.request_id)
            return mine.filter(request_id=wanted) if wanted else mine.none()
        rows: QuerySet[UsageEvent] = analytics.within(organization, self.period)
        if self.model:
            rows = rows.filter(model=self.model)
        if self.key:
            wanted = _uuid(self.key)
            rows = rows.filter(key_id=wanted) if wanted else rows.none()
        return rows


@require_GET
@requires(Permission.VIEW_USAGE)
def usage(request: TenantRequest) -> HttpResponse:
    """What was used, by day, by model, and request by request."""
    filters = Filters.of(request)
    organization = request.organization
    rows = filters.rows(organization)
    models = analytics.by_model(rows)
    days = analytics.by_day(rows, filters.period)
    shown = list(_after(rows, request.GET.get("after", ""))[: PAGE + 1])
    page, more = shown[:PAGE], len(shown) > PAGE
    names = analytics.key_names(organization, (row.key_id for row in page))
    return render(
        request,
        "billing/usage.html",
        {
            "filters": filters,
            "periods": [(days_, _period_title(days_)) for days_ in PERIODS],
            "totals": analytics.totals(rows),
            "models": [
                model | {"colour": min(number, analytics.SHOWN_MODELS) + 1}
                for number, model in enumerate(models)
            ],
            "bars": analytics.bars(
                days, (model["model"] for model in models), CHART_HEIGHT, CHART_STEP
            ),
            "chart": {"width": len(days) * CHART_STEP, "height": CHART_HEIGHT},
            "days": sorted(days.items(), reverse=True),
            "rows": [(row, names.get(row.key_id, "")) for row in page],
            "next": page[-1].request_id if more else None,
            "query": _query_without(request, "after"),
        },
    )


@require_GET
@requires(Permission.VIEW_USAGE)
def export(request: TenantRequest) -> StreamingHttpResponse:
    """What the page shows, all of it, as CSV: streamed, so that no length is too long."""
    filters = Filters.of(request)
    rows = filters.rows(request.organization).values_list(*EXPORTED).iterator(chunk_size=2000)
    name = f"{request.organization.slug}-usage-{filters.period.first}-{filters.period.last}.csv"
    return csv_rows.answer(name, EXPORTED, rows)


def _after(rows: QuerySet[UsageEvent], request_id: str) -> QuerySet[UsageEvent]:
    """The rows older than that one: pages by key, as fast at the end as at the beginning."""
    last = _uuid(request_id)
    return rows.filter(request_id__lt=last) if last else rows


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _period_title(days: int) -> str:
    return _("Today") if days == 1 else _("%(count)s days") % {"count": days}


def _query_without(request: HttpRequest, name: str) -> str:
    query = request.GET.copy()
    query.pop(name, None)
    return query.urlencode()
