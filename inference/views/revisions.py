"""The versions of an instance: what changed, whether it could start, the way back."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference.models import Instance, InstanceRevision, Replica
from inference.views.instance import common, fetch, gone

SHOWN = 100


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """The newest first, each beside the one before it."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    context = common(request, instance, instance.replicas.first())
    context["revisions"] = _rows(instance)
    return render(request, "inference/instance_revisions.html", context)


@require_POST
@requires(Permission.MANAGE_INSTANCES)
def restore(request: TenantRequest, instance_id: UUID, number: int) -> HttpResponse:
    """Want an earlier one again."""
    mine = Instance.objects.for_organization(request.organization).alive()
    instance = get_object_or_404(mine.select_related("organization"), id=instance_id)
    get_object_or_404(InstanceRevision, instance=instance, number=number)
    try:
        instance.roll_back(request.user, number, at_once="at_once" in request.POST)
    except ValidationError as problem:
        messages.error(request, " ".join(problem.messages))
        return redirect(
            "instance-revisions", org=request.organization.slug, instance_id=instance.id
        )
    messages.success(request, _("Revision %(number)d comes back.") % {"number": number})
    return redirect(instance)


def _rows(instance: Instance) -> list[dict[str, Any]]:
    revisions = list(instance.revisions.select_related("created_by")[: SHOWN + 1])
    living = instance.replicas.filter(state=Replica.State.READY)
    serving = set(living.values_list("revision", flat=True))
    return [
        {
            "revision": revision,
            "differences": revision.differences(former) if former else [],
            "first": former is None,
            "serves": revision.id in serving,
            "wanted": revision.number == instance.revision,
        }
        for revision, former in zip(revisions, [*revisions[1:], None], strict=True)
    ][:SHOWN]
