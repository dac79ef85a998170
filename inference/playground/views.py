from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from accounts.models import Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference.engines import ENGINES
from inference.lifecycle import InstanceState
from inference.models import Adapter, Instance, Route

CHAT = "/v1/chat/completions"  # an engine that embeds does not answer


def _adapters_of(names: list[str], organization: Organization) -> list[str]:
    """The adapters of these instances that answer, or will when their instance has woken."""
    theirs = Adapter.objects.for_organization(organization).filter(removed_at=None)
    useless = [Adapter.State.FAILED, Adapter.State.REMOVING]
    usable = theirs.filter(instance__name__in=names, instance__deleted_at=None)
    return list(usable.exclude(state__in=useless).values_list("name", flat=True))


def _routes_to(names: list[str], organization: Organization) -> list[str]:
    """The routes that lead to one of these instances, or to a provider."""
    routes = Route.objects.for_organization(organization).prefetch_related("targets__instance")
    return [
        route.name
        for route in routes
        if any(
            target.instance is None or target.instance.name in names
            for target in route.targets.all()
        )
    ]


@require_GET
@requires(Permission.USE)
def playground(request: TenantRequest) -> HttpResponse:
    """The chat page; the conversation itself goes over the websocket and stays in the tab."""
    alive = Instance.objects.for_organization(request.organization).alive()
    # One that sleeps wakes with the first question.
    usable = Q(state=InstanceState.READY, desired="running") | Q(desired="asleep")
    names = [
        instance.name
        for instance in alive.filter(usable).order_by("name")
        if CHAT in ENGINES[instance.engine].endpoints(instance.settings)
    ]
    names += _adapters_of(names, request.organization)
    names += _routes_to(names, request.organization)
    wanted = request.GET.get("model")
    context = {
        "names": names,
        "chosen": wanted if wanted in names else None,
        "socket": f"/ws{reverse('playground', kwargs={'org': request.organization.slug})}",
        "text": {
            "waiting": _("Waiting for the first word…"),
            "lost": _("The connection was lost. Send again when it is back."),
            "refused": _("This session has ended. Reload the page and sign in again."),
            "ttft": _("First token"),
            "speed": _("tokens/s"),
            "tokens": _("tokens"),
            "stopped": _("stopped"),
            "cut": _("cut at the token limit"),
        },
    }
    return render(request, "inference/playground.html", context)
