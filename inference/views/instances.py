"""Pages of instances: the list, the way to a new one, and what can be done to one."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference import catalog, fit_answers
from inference.fit_answers import House
from inference.forms import InstanceForm, request_instance
from inference.hub import HubError
from inference.models import Instance


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """All instances of the organization."""
    instances = Instance.objects.for_organization(request.organization).alive()
    context = {
        "instances": instances,
        "moving": any(not instance.is_settled for instance in instances),
        "may_manage": request.membership.allows(Permission.MANAGE_INSTANCES),
    }
    part = "#rows" if request.headers.get("HX-Request") else ""
    return render(request, f"inference/instances.html{part}", context)


@require_http_methods(["GET", "POST"])
@requires(Permission.MANAGE_INSTANCES)
def create(request: TenantRequest) -> HttpResponse:
    """The last step before an engine runs: a name and, if one likes, settings."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        card = catalog.describe(
            request.organization,
            asked.get("source", ""),
            asked.get("model", ""),
            asked.get("revision", ""),
            asked.get("file", ""),
        )
    except HubError as error:
        messages.error(request, error.sentence)
        return redirect("catalog", org=request.organization.slug)
    house = House.of(request.organization)
    form = InstanceForm(
        card, fit_answers.most_gpus(house.places), asked, bound=request.method == "POST"
    )
    if form.is_bound and form.wants_to_see:
        return redirect(f"{request.path}?{_kept(form)}")
    engine, draft = form.chosen.name, form.draft_so_far(request.organization)
    fits = house.answers(card, form.wish(), engine, draft)
    # Whatever is chosen; what is chosen now may not fit and something else may.
    obstacle = fit_answers.obstacle(card, house.answers(card, engine=engine))
    if form.is_bound and not obstacle and form.is_valid():
        form.refuse(fit_answers.obstacle(card, fits))
        instance = request_instance(form, request.organization, request.user)
        if instance is not None:
            return redirect(instance)
    context = {"card": card, "fits": fits, "obstacle": obstacle, "form": form}
    # Another context length, number of GPUs or number format was chosen: does it still fit?
    part = "#fit" if request.headers.get("HX-Request") else ""
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.is_bound else HTTPStatus.OK
    return render(request, f"inference/instance_create.html{part}", context, status=status)


def _kept(form: InstanceForm) -> str:
    """What an address keeps of a form whose engine was changed: other settings are shown then."""
    names = ("source", "model", "revision", "file", "name", "engine", "gpu_count")
    return urlencode({name: form.asked.get(name, "") for name in names})


@require_POST
@requires(Permission.MANAGE_INSTANCES)
def act(request: TenantRequest, instance_id: UUID, verb: str) -> HttpResponse:
    """Start, stop, restart or delete it, put it to sleep or wake it."""
    mine = Instance.objects.for_organization(request.organization).alive()
    instance = get_object_or_404(mine.select_related("organization"), id=instance_id)
    match verb:
        case "start":
            instance.request_start(request.user)
        case "stop":
            instance.request_stop(request.user)
        case "sleep":
            instance.request_sleep(request.user)
        case "wake":
            instance.request_wake(request.user)
        case "replace":
            instance.replace_at_once(request.user)
        case "restart":
            instance.request_restart(request.user)
        case "delete":
            return _delete(request, instance, request.POST)
        case _:
            raise Http404
    return redirect(instance)


def _delete(request: Any, instance: Instance, answers: QueryDict) -> HttpResponse:
    """Only for someone who has typed its name."""
    if answers.get("confirm") != instance.name:
        messages.error(request, _("The name did not match, so nothing was deleted."))
        return redirect(instance)
    instance.request_delete(request.user)
    messages.success(request, _("%(name)s is being deleted.") % {"name": instance.name})
    return redirect("instances", org=request.organization.slug)
