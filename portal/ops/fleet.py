"""The first page of the operator: machines, what waits for room, what waits for a decision."""

from datetime import timedelta

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from inference.lifecycle import InstanceState, Stage
from inference.models import Instance, Node
from portal.ops.access import operators_only
from portal.ops.failures import failed_starts
from portal.ops.nodes import described, holders


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """How the fleet is."""
    alive = Instance.objects.alive().select_related("organization")
    held = holders()
    nodes = [described(node, held) for node in Node.objects.order_by("name")]
    context = {
        "nodes": nodes,
        "ready": alive.filter(state=InstanceState.READY).count(),
        "gpus": sum(len(node["gpus"]) for node in nodes),
        "gpus_free": sum(not gpu["holder"] for node in nodes for gpu in node["gpus"]),
        "queue": alive.filter(state=InstanceState.PROVISIONING, stage=Stage.QUEUED).order_by("id"),
        "approvals": alive.filter(approval=Instance.Approval.PENDING).count(),
        "failures": failed_starts()
        .filter(ended_at__gte=timezone.now() - timedelta(days=1))
        .count(),
    }
    part = "#live" if request.headers.get("HX-Request") else ""
    return render(request, f"ops/fleet.html{part}", context)
