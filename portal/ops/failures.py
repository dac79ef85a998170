"""Starts that came to nothing, over all organizations: what happened, and the engine's words."""

from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from inference.models import Replica
from inference.provisioners.base import Reason
from portal.ops.access import operators_only

ON_PURPOSE = (Reason.CANCELLED, Reason.PREEMPTED)
PER_PAGE = 50


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """The newest first."""
    page = Paginator(failed_starts(), PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "ops/failures.html", {"page": page})


@require_GET
@operators_only
def show(request: HttpRequest, replica_id: UUID) -> HttpResponse:
    """One of them, with the end of the engine's log."""
    replica = get_object_or_404(failed_starts(), id=replica_id)
    return render(request, "ops/failure.html", {"replica": replica})


def failed_starts() -> QuerySet[Replica]:
    """Replicas that ended before they had ever been ready, and not because somebody wanted it."""
    failed: QuerySet[Replica] = Replica.objects.filter(state=Replica.State.GONE, ready_at=None)
    return (
        failed.exclude(end_reason__in=ON_PURPOSE)
        .select_related("instance", "organization")
        .order_by("-id")
    )
