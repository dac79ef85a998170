"""Requests that are large enough for somebody to look at first."""

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from inference.models import Instance
from inference.models.quota import held
from portal.ops.access import operators_only


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """What waits for a decision, the oldest first."""
    waiting = [(instance, held(instance.organization)) for instance in _pending()]
    return render(request, "ops/approvals.html", {"waiting": waiting})


@require_POST
@operators_only
def decide(request: HttpRequest, instance_id: UUID, verb: str) -> HttpResponse:
    """Let it start, or refuse it."""
    if verb not in {"approve", "refuse"}:
        raise Http404
    instance = get_object_or_404(Instance.objects.alive(), id=instance_id)
    decided = instance.decide_approval(request.user, granted=verb == "approve")
    if not decided:
        messages.error(request, _("Somebody has decided that meanwhile."))
    elif verb == "approve":
        messages.success(request, _("%(name)s may start.") % {"name": instance.name})
    else:
        messages.success(request, _("%(name)s is refused.") % {"name": instance.name})
    return redirect("ops-approvals")


def _pending() -> list[Instance]:
    alive = Instance.objects.alive().filter(approval=Instance.Approval.PENDING)
    return list(alive.select_related("organization", "created_by").order_by("id"))
