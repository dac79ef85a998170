"""Pages of instances: the list, the way to a new one, and one instance as it lives."""

import contextlib
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import analytics
from billing.models import UsageEvent
from inference import catalog, reconciler, words
from inference.forms import InstanceForm, request_instance, suggested_name
from inference.hub import HubError
from inference.lifecycle import InstanceState, Stage
from inference.models import Instance
from inference.provisioners.base import Unavailable
from portal.lib.ids import uuid7_floor
from portal.lib.snippets import snippets

LOG_WINDOW = 200_000  # bytes of log that a page shows
EVENTS_SHOWN = 200


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """All instances of the organization."""
    instances = Instance.objects.for_organization(request.organization).alive()
    context = {
        "instances": instances,
        "moving": any(_moving(instance) for instance in instances),
        "may_manage": request.membership.allows(Permission.MANAGE_INSTANCES),
    }
    part = "#rows" if request.headers.get("HX-Request") else ""
    return render(request, f"inference/instances.html{part}", context)


@requires(Permission.MANAGE_INSTANCES)
def create(request: TenantRequest) -> HttpResponse:
    """The last step before an engine runs: a name and, if one likes, settings."""
    asked = request.POST if request.method == "POST" else request.GET
    source, model_id = asked.get("source", ""), asked.get("model", "")
    try:
        card = catalog.describe(request.organization, source, model_id, asked.get("revision", ""))
    except HubError as error:
        messages.error(request, error.sentence)
        return redirect("catalog", org=request.organization.slug)
    answers = catalog.fits(card)
    obstacle = catalog.obstacle(card, answers)
    gpus = max((len(answer.hardware.gpu_memory_bytes) for answer in answers), default=0)
    form = InstanceForm(
        request.POST if request.method == "POST" else None,
        engine="vllm",
        variant="cuda" if gpus else "cpu",
        gpu_count=gpus,
        initial={
            "name": suggested_name(model_id),
            "setting_max_model_len": asked.get("max_model_len") or None,
        },
    )
    if request.method == "POST" and not obstacle and form.is_valid():
        instance = request_instance(
            form, organization=request.organization, by=request.user, card=card
        )
        if instance is not None:
            return redirect(instance)
    context = {"card": card, "fits": answers, "obstacle": obstacle, "form": form}
    refused = form.is_bound and (obstacle or form.errors)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK
    return render(request, "inference/instance_create.html", context, status=status)


@require_GET
@requires(Permission.VIEW)
def show(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """One instance: how it is, how to call it, what it was used for."""
    instance = _fetch(request, instance_id)
    context = _common(request, instance) | {
        "stages": _stages(instance),
        "replica": instance.replicas.first(),
        "usage": _last_day(instance),
        "snippets": snippets(f"{settings.PUBLIC_URL}/v1", instance.name),
        "base_url": f"{settings.PUBLIC_URL}/v1",
    }
    part = "#live" if request.headers.get("HX-Request") else ""
    return render(request, f"inference/instance.html{part}", context)


@require_GET
@requires(Permission.VIEW)
def events(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """What happened to it, newest first."""
    instance = _fetch(request, instance_id)
    happened = instance.events.select_related("by")[:EVENTS_SHOWN]
    context = _common(request, instance) | {"events": happened}
    part = "#rows" if request.headers.get("HX-Request") else ""
    return render(request, f"inference/instance_events.html{part}", context)


@require_GET
@requires(Permission.VIEW)
def logs(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """The engine's own log, its end first to hand."""
    instance = _fetch(request, instance_id)
    wanted = request.GET.get("q", "").strip()[:200]
    text, problem = _log(instance)
    lines = text.splitlines()
    if wanted:
        lines = [line for line in lines if wanted.lower() in line.lower()]
    context = _common(request, instance) | {"lines": lines, "query": wanted, "problem": problem}
    part = "#lines" if request.headers.get("HX-Request") else ""
    return render(request, f"inference/instance_logs.html{part}", context)


@require_GET
@requires(Permission.VIEW)
def download_log(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """All of the log that is kept, as a file."""
    instance = _fetch(request, instance_id)
    parts: list[str] = []
    replica = instance.replicas.first()
    if replica is not None:
        with contextlib.suppress(Unavailable):
            place, handle, offset = reconciler.provisioner(), reconciler.handle_of(replica), 0
            while chunk := place.logs(handle, offset=offset):
                if not chunk.text:
                    break
                parts.append(chunk.text)
                offset = chunk.next_offset
    response = HttpResponse("".join(parts), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{instance.name}.log"'
    return response


@require_POST
@requires(Permission.MANAGE_INSTANCES)
def act(request: TenantRequest, instance_id: UUID, verb: str) -> HttpResponse:
    """Start, stop, restart or delete it."""
    instance = _fetch(request, instance_id)
    match verb:
        case "start":
            instance.request_start(request.user)
        case "stop":
            instance.request_stop(request.user)
        case "restart":
            instance.request_restart(request.user)
        case "delete":
            if request.POST.get("confirm") != instance.name:
                messages.error(request, _("The name did not match, so nothing was deleted."))
                return redirect(instance)
            instance.request_delete(request.user)
            messages.success(request, _("%(name)s is being deleted.") % {"name": instance.name})
            return redirect("instances", org=request.organization.slug)
        case _:
            raise Http404
    return redirect(instance)


def _fetch(request: TenantRequest, instance_id: UUID) -> Instance:
    mine = Instance.objects.for_organization(request.organization).alive()
    return get_object_or_404(mine.select_related("organization"), id=instance_id)


def _common(request: TenantRequest, instance: Instance) -> dict[str, Any]:
    stops = instance.desired == "running" and instance.state != InstanceState.FAILED
    return {
        "instance": instance,
        "moving": _moving(instance),
        "runs": stops,
        "remedy": words.REMEDIES.get(instance.reason, ""),
        "may_manage": request.membership.allows(Permission.MANAGE_INSTANCES),
        "may_use": request.membership.allows(Permission.USE),
    }


def _moving(instance: Instance) -> bool:
    """Whether a look in two seconds may show something new."""
    return not instance.is_settled


def _stages(instance: Instance) -> list[dict[str, Any]]:
    """The stages of the newest start, with the seconds that each took."""
    passed = list(
        instance.events.filter(generation=instance.generation)
        .order_by("id")
        .values_list("reason", "at")
    )
    begun = [n for n, (reason, _at) in enumerate(passed) if reason == Stage.QUEUED]
    passed = passed[begun[-1] if begun else 0 :]
    now = timezone.now()
    stages: list[dict[str, Any]] = []
    for number, (reason, at) in enumerate(passed):
        if reason not in words.STAGES:
            continue
        last = number + 1 == len(passed)
        until = now if last else passed[number + 1][1]
        ready = reason == InstanceState.READY
        stages.append(
            {
                "title": words.STAGES[reason],
                "seconds": None if ready else round((until - at).total_seconds()),
                "at": at,
                "current": last and not ready and not instance.is_settled,
            }
        )
    return stages


def _last_day(instance: Instance) -> dict[str, int]:
    since = uuid7_floor(timezone.now() - timedelta(days=1))
    rows = UsageEvent.objects.for_organization(instance.organization)
    return analytics.totals(rows.filter(request_id__gte=since, instance_id=instance.id))


def _log(instance: Instance) -> tuple[str, str]:
    """The end of the newest engine's log, or a sentence why there is none."""
    replica = instance.replicas.first()
    if replica is None:
        return "", _("The engine has not been started yet.")
    try:
        chunk = reconciler.provisioner().logs(reconciler.handle_of(replica), limit=LOG_WINDOW)
    except Unavailable:
        return "", _("The machine's supervisor cannot be reached, so the log cannot be read now.")
    return chunk.text, "" if chunk.text else _("The engine has written nothing yet.")
