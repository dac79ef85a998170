"""An instance's attempts to start, each with its log, and the buttons that mend a failed one."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference import attempts
from inference.models import Instance
from inference.views.instance import common


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """Every attempt, newest first: how long, how it ended, why, and the engine's last words."""
    instance = _fetch(request, instance_id)
    context = common(request, instance, instance.replicas.first())
    context |= {"tries": attempts.of(instance)}
    return render(request, "inference/instance_attempts.html", context)


@require_POST
@requires(Permission.MANAGE_INSTANCES)
def apply(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """Do the one that was chosen, where the failure still offers it."""
    instance = _fetch(request, instance_id)
    try:
        done = attempts.apply(instance, request.user, request.POST.get("remedy", ""))
    except ValidationError as problem:
        messages.error(request, " ".join(problem.messages))
    else:
        if not done:
            messages.error(request, _("That is no longer of use; the instance has moved on."))
    return redirect(instance)


def _fetch(request: TenantRequest, instance_id: UUID) -> Instance:
    mine = Instance.objects.for_organization(request.organization).alive()
    return get_object_or_404(mine.select_related("organization"), id=instance_id)
