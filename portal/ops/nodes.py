"""One machine: its GPUs and who holds them, and the switches that keep work away from it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from inference.models import Node, Replica
from portal.ops.access import operators_only

SILENT_FOR = timedelta(seconds=60)  # a machine that has not reported for so long is out of reach


@require_GET
@operators_only
def show(request: HttpRequest, node_id: UUID) -> HttpResponse:
    """What it has and what runs there."""
    node = get_object_or_404(Node, id=node_id)
    held = holders()
    context = {"node": described(node, held), "replicas": held.values()}
    part = "#live" if request.headers.get("HX-Request") else ""
    return render(request, f"ops/node.html{part}", context)


@require_POST
@operators_only
def act(request: HttpRequest, node_id: UUID, verb: str) -> HttpResponse:
    """Keep work away from it, end what it does, or let it work again."""
    node = get_object_or_404(Node, id=node_id)
    match verb:
        case "cordon":
            node.cordon()
            messages.success(request, _("No new engine starts there from now on."))
        case "drain":
            node.drain()
            messages.success(request, _("Its engines end once they have answered."))
        case "open":
            node.open()
            messages.success(request, _("Engines may start there again."))
        case _:
            raise Http404
    return redirect("ops-node", node_id=node.id)


def holders() -> dict[str, Replica]:
    """Who runs what: the living replicas by their id."""
    living = Replica.objects.exclude(state=Replica.State.GONE)
    return {
        str(replica.id): replica
        for replica in living.select_related("instance", "organization").order_by("id")
    }


def described(node: Node, held: dict[str, Replica]) -> dict[str, Any]:
    """A machine as pages show it; of each GPU, the replica that holds it."""
    silent = timezone.now() - node.seen_at > SILENT_FOR
    gpus = [gpu | {"holder": held.get(gpu.get("replica_id") or "")} for gpu in node.gpus]
    return {
        "node": node,
        "gpus": gpus,
        "free": sum(not gpu["holder"] for gpu in gpus),
        "tone": "danger" if silent else "warn" if node.cordoned else "ok",
        "word": _condition(node, silent),
    }


def _condition(node: Node, silent: bool) -> str:
    if silent:
        return _("Out of reach")
    if node.draining:
        return _("Drained")
    return _("Cordoned") if node.cordoned else _("Works")
