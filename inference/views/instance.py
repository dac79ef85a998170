"""Pages of one instance: how it is and how to call it, its log, its events.

They ask for their changing part again while they are open (`HX-Request`), every 2 s while something
moves. When the instance is gone meanwhile, that leads to the list.
"""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET
from django_htmx.http import HttpResponseClientRedirect

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import top_up
from inference import attempts, engine_log, fit_words, headline, insights, words
from inference.headline import Number
from inference.insights import Range
from inference.lifecycle import Desired, InstanceState, Stage
from inference.models import FitRecord, Instance, Replica, SloTarget
from inference.provisioners.base import Unavailable
from inference.reconciler.decision import ATTEMPTS
from portal.lib.env import environment
from portal.lib.snippets import snippets

LINES_SHOWN = 1_000
EVENTS_SHOWN = 200

NOT_STARTED = gettext_lazy("The engine has not been started yet.")
NO_ANSWER = gettext_lazy(
    "The machine's supervisor cannot be reached, so the log cannot be read now."
)


@require_GET
@requires(Permission.VIEW)
def show(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """One instance: how it is, how to call it, what it was used for."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    replica = instance.replicas.first()
    head = common(request, instance, replica)
    if request.GET.get("part") == "head":  # its other tabs keep their head up to date by this
        return render(request, "inference/instance_head.html", head | {"polls": True})
    living = _living(instance)
    served = _serving(living) or replica
    context = head | {
        "stages": _stages(instance),
        "failure": attempts.failure(instance),
        "remedies": attempts.remedies(instance),
        "licence_url": f"{environment().hf_endpoint}/{instance.model_id}",
        "replica": served,
        "estimate_error": _estimate_error(served),
        "cannot_chat": any(one.chats is False for one in living),
        "replicas": living,
        "settings": words.settings_in_words(instance.engine, instance.settings),
        "numbers": _last_hour(instance),
        "snippets": snippets(f"{settings.PUBLIC_URL}/v1", instance.name),
        "base_url": f"{settings.PUBLIC_URL}/v1",
    }
    return _page(request, "inference/instance.html", context)


def _estimate_error(replica: Replica | None) -> str:
    """Of its start; empty where nothing was measured."""
    record = FitRecord.objects.filter(replica=replica).first()
    return fit_words.error(record.error) if record and record.error is not None else ""


@require_GET
@requires(Permission.VIEW)
def events(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """What happened to it, newest first."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    happened = instance.events.select_related("by")[:EVENTS_SHOWN]
    context = common(request, instance, instance.replicas.first()) | {"events": happened}
    return _page(request, "inference/instance_events.html", context)


@require_GET
@requires(Permission.VIEW)
def logs(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """The engine's own log, its end first to hand."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    replica = instance.replicas.first()
    wanted = request.GET.get("q", "").strip()[:200]
    lines, problem = _lines(replica, wanted)
    context = common(request, instance, replica) | {
        "lines": lines[-LINES_SHOWN:],
        "query": wanted,
        "problem": problem,
    }
    return _page(request, "inference/instance_logs.html", context)


@require_GET
@requires(Permission.VIEW)
def download_log(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """All of the log that is kept, as a file."""
    instance = fetch(request, instance_id)
    if instance is None:
        raise Http404
    replica = instance.replicas.first()
    try:
        text = "".join(engine_log.whole(replica)) if replica else str(NOT_STARTED)
    except Unavailable:
        text = str(NO_ANSWER)
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{instance.name}.log"'
    return response


def fetch(request: TenantRequest, instance_id: UUID) -> Instance | None:
    """This organization's; None where it was deleted while its page was open."""
    mine = Instance.objects.for_organization(request.organization).select_related("organization")
    instance = mine.filter(id=instance_id).first()
    if instance is None:
        raise Http404
    return instance if instance.deleted_at is None else None


def gone(request: TenantRequest) -> HttpResponse:
    """What a page says that was open when its instance was deleted."""
    if not request.headers.get("HX-Request"):
        raise Http404
    return HttpResponseClientRedirect(reverse("instances", args=[request.organization.slug]))


def _page(request: TenantRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    part = "#live" if request.headers.get("HX-Request") else ""
    return render(request, template + part, context)


def common(request: TenantRequest, instance: Instance, replica: Replica | None) -> dict[str, Any]:
    """What the head of each of its pages shows."""
    to_run = instance.desired == Desired.RUNNING
    fresh_one_due = to_run and (
        replica is None or replica.generation != instance.generation or bool(instance.stage)
    )
    return {
        "instance": instance,
        "moving": not instance.is_settled or fresh_one_due,
        "deleting": instance.desired == Desired.DELETED,
        "runs": to_run and instance.state != InstanceState.FAILED,
        "sleeps": instance.desired == Desired.ASLEEP,
        "rolling": to_run and replica is not None and replica.generation != instance.generation,
        "sentence": words.sentence(instance),
        "billing_page": top_up.path(request.organization.slug),
        "remedy": words.remedy(instance.reason),
        "again_in": _seconds_until(instance),
        "attempt": instance.attempts + 1 if instance.attempts else 0,
        "attempts": ATTEMPTS,
        "may_manage": request.membership.allows(Permission.MANAGE_INSTANCES),
        "may_use": request.membership.allows(Permission.USE),
    }


def _living(instance: Instance) -> list[Replica]:
    """Its replicas, as they are numbered; an old one beside the new one while it still serves."""
    living = instance.replicas.exclude(state=Replica.State.GONE).select_related("revision")
    return list(living.order_by("index", "id"))


def _serving(living: list[Replica]) -> Replica | None:
    """One that answers: what it says of itself holds for who calls."""
    return next((one for one in living if one.state == Replica.State.READY), None)


def _seconds_until(instance: Instance) -> int | None:
    """Seconds until the next attempt, where one is due."""
    if instance.retry_at is None or instance.is_settled:
        return None
    return max(0, round((instance.retry_at - timezone.now()).total_seconds()))


def _stages(instance: Instance) -> list[dict[str, Any]]:
    """The stages of the newest start, with the seconds that each took."""
    passed = list(
        instance.events.filter(generation=instance.generation)
        .order_by("id")
        .values_list("reason", "at")
    )
    begun = [n for n, (reason, _at) in enumerate(passed) if reason == Stage.QUEUED]
    failed = [n + 1 for n, (reason, _at) in enumerate(passed[:-1]) if reason in words.FAILED_STARTS]
    passed = passed[max(begun[-1:] + failed[-1:], default=0) :]
    now = timezone.now()
    stages: list[dict[str, Any]] = []
    for number, (reason, at) in enumerate(passed):
        title = words.STAGES.get(reason) or words.FAILED_STARTS.get(reason)
        if title is None:
            continue
        last = number + 1 == len(passed)
        until = now if last else passed[number + 1][1]
        over = reason == InstanceState.READY or reason in words.FAILED_STARTS
        stages.append(
            {
                "title": title,
                "seconds": None if over else round((until - at).total_seconds()),
                "at": at,
                "failed": reason in words.FAILED_STARTS,
                "current": last and not over and not instance.is_settled,
            }
        )
    return stages


def _last_hour(instance: Instance) -> list[Number]:
    now = timezone.now()
    points = insights.points(instance, Range.HOUR, now)
    served = insights.served(instance, points[0].at, now)
    return headline.numbers(points, served, SloTarget.of(instance))


def _lines(replica: Replica | None, wanted: str) -> tuple[list[str], str]:
    """Lines of the newest engine's log, or a sentence why there is none."""
    if replica is None:
        return [], str(NOT_STARTED)
    try:
        if wanted:
            lines = "".join(engine_log.whole(replica)).splitlines()
            return [line for line in lines if wanted.lower() in line.lower()], ""
        text = engine_log.end(replica).text
    except Unavailable:
        return [], str(NO_ANSWER)
    return text.splitlines(), "" if text else _("The engine has written nothing yet.")
