"""The metrics of one instance over a range that is in the address, and its targets."""

from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from accounts.forms import StyledForm
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import wallet
from inference import costs, external_prices, insights
from inference.headline import numbers
from inference.insights import Point, Range, Served
from inference.metric_charts import charts
from inference.models import Instance, SloTarget
from inference.views import instance as instance_pages
from portal.lib.crypto import UnreadableSecret

NUMBER = {"class": "input num w-full", "inputmode": "numeric"}


class SloForm(StyledForm):
    """An empty target is off."""

    ttft_ms = forms.IntegerField(
        label=gettext_lazy("Time to the first token, at most (ms)"),
        required=False,
        widget=forms.NumberInput(attrs=NUMBER),
    )
    tokens_per_second = forms.IntegerField(
        label=gettext_lazy("Tokens per second of one answer, at least"),
        required=False,
        widget=forms.NumberInput(attrs=NUMBER),
    )
    gpu_utilization = forms.IntegerField(
        label=gettext_lazy("GPU utilization, at least (%)"),
        required=False,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=gettext_lazy("Met where the mean of six hours reaches it."),
    )
    webhook_url = forms.CharField(
        label=gettext_lazy("Webhook"),
        required=False,
        max_length=1024,
        widget=forms.URLInput(attrs={"class": "input w-full"}),
        help_text=gettext_lazy("Owners and admins get an e-mail in any case."),
    )
    enabled = forms.BooleanField(
        label=gettext_lazy("Send alerts"),
        required=False,
        widget=forms.CheckboxInput(attrs={"class": "input"}),
    )

    @classmethod
    def of(cls, target: SloTarget) -> "SloForm":
        """Filled with what holds now."""
        return cls(initial={name: getattr(target, name) for name in cls.base_fields})

    def set(self, target: SloTarget) -> bool:
        """Whether it could be taken; what is wrong is written beside its field."""
        if not self.is_valid():
            return False
        try:
            target.set(**self.cleaned_data)
        except ValidationError as error:
            self.add_error(None, error)
            return False
        return True


@require_http_methods(["GET", "HEAD", "POST"])
@requires(Permission.VIEW)
def show(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """What it computed, how fast, on what, for how much; and how it should."""
    instance = instance_pages.fetch(request, instance_id)
    if instance is None:
        raise Http404
    target = SloTarget.of(instance)
    form = SloForm.of(target)
    if request.method == "POST":
        if not request.membership.allows(Permission.MANAGE_INSTANCES):
            raise PermissionDenied
        form = SloForm(request.POST)
        if form.set(target):
            messages.success(request, _("Saved."))
            return redirect(request.get_full_path())
    over = Range.of(request.GET.get("range", ""))
    context = instance_pages.common(request, instance, instance.replicas.first())
    context |= _measured(instance, target, over, timezone.now())
    context |= {"range": over, "ranges": list(Range), "form": form, "target": target}
    if context["may_manage"]:
        context["webhook_secret"] = _secret(target)
    part = "#live" if request.headers.get("HX-Request") else ""
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, f"inference/instance_metrics.html{part}", context, status=status)


def _measured(instance: Instance, target: SloTarget, over: Range, now: datetime) -> dict[str, Any]:
    points = insights.points(instance, over, now)
    served = insights.served(instance, points[0].at, now)
    return {
        "numbers": numbers(points, served, target),
        "charts": charts(points, target),
        "open_alerts": target.alerts.filter(ended_at=None) if target.pk else [],
        "cost": _cost(instance, points, served),
    }


def _cost(instance: Instance, points: list[Point], served: Served) -> dict[str, Any]:
    """What the panel of costs says; a sentence where something is missing."""
    hour = settings.ENV.gpu_hour_cost
    currency = wallet.currency_of(instance.organization)
    if hour is None:
        return {"problem": _("The operator has not said what a GPU costs (GPU_HOUR_COST).")}
    if not instance.gpu_count:
        return {
            "problem": _("It runs on the machine's processors, which have no price by the hour.")
        }
    if not served.gpu_hours:
        return {"problem": _("It has not served in this time.")}
    load = costs.Load(
        prompt_tokens=int(insights.total(points, "prompt_tokens")),
        completion_tokens=int(insights.total(points, "completion_tokens")),
        served_hours=Decimal(round(served.seconds)) / 3600,
        cost=served.gpu_hours * hour,
    )
    found = {"load": load, "currency": currency, "gpu_hours": served.gpu_hours}
    try:
        prices = external_prices.read(settings.ENV.external_prices)
    except costs.BadPrices as problem:
        return found | {"prices_problem": str(problem)}
    compared = (costs.compare(load, price) for price in prices if price.currency == currency)
    return found | {"comparisons": [(c, c.is_cheaper_here(load)) for c in compared if c]}


def _secret(target: SloTarget) -> str:
    try:
        return target.secret if target.webhook_url else ""
    except UnreadableSecret:
        return ""
