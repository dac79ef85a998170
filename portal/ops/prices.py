"""The house's prices: what holds, what will hold, and what held."""

from decimal import Decimal
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from accounts.forms import StyledForm
from billing.models import PriceBook, PriceVersion, Rate
from billing.models.price import NANO
from portal.ops.access import operators_only

NUMBER = {"class": "input num w-full", "step": "any", "inputmode": "decimal"}
SHOWN = 50


class PriceForm(StyledForm):
    """A rate for each meter, in units of the currency."""

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for meter in Rate.Meter:
            each = _("each") if meter is Rate.Meter.REQUEST else _("per million")
            self.fields[meter.value] = forms.DecimalField(
                label=f"{meter.label}, {each} ({currency})",
                min_value=0,
                max_value=1_000_000,
                decimal_places=9,
                widget=forms.NumberInput(attrs=NUMBER),
            )
        self.fields["effective_at"] = forms.DateTimeField(
            label=gettext_lazy("From (UTC)"),
            required=False,
            widget=forms.DateTimeInput(attrs={"class": "input", "type": "datetime-local"}),
            help_text=gettext_lazy("Empty: from now on."),
        )

    def rates(self) -> dict[str, int]:
        """Nano-units by meter."""
        return {meter.value: int(self.cleaned_data[meter.value] * NANO) for meter in Rate.Meter}


@require_http_methods(["GET", "POST"])
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """The list, and the form that adds to it."""
    book = PriceBook.of_house()
    versions = list(book.versions.filter(model="").prefetch_related("rates")[:SHOWN])
    now = timezone.now()
    holds = next((version for version in versions if version.effective_at <= now), None)
    if request.method == "POST":
        form = PriceForm(request.POST, currency=book.currency)
        if form.is_valid() and _added(book, form):
            messages.success(request, _("The prices are entered."))
            return redirect("ops-prices")
    else:
        form = PriceForm(initial=_amounts(holds), currency=book.currency)
    context = {
        "book": book,
        "meters": [meter.label for meter in Rate.Meter],
        "versions": [
            {
                "version": version,
                "amounts": list(_amounts(version).values()),
                "holds": version == holds,
                "comes": version.effective_at > now,
            }
            for version in versions
        ],
        "form": form,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "ops/prices.html", context, status=status)


def _added(book: PriceBook, form: PriceForm) -> bool:
    try:
        book.set_rates(form.rates(), form.cleaned_data["effective_at"])
    except ValidationError as problem:
        form.add_error(None, problem)
    return not form.errors


def _amounts(version: PriceVersion | None) -> dict[str, Decimal]:
    """Units of the currency by meter, in the meters' order, without idle zeros."""
    nano = {rate.meter: rate.nano for rate in version.rates.all()} if version else {}
    return {meter.value: _plain(Decimal(nano.get(meter.value, 0)) / NANO) for meter in Rate.Meter}


def _plain(amount: Decimal) -> Decimal:
    short = amount.normalize()
    return short if short.as_tuple().exponent <= 0 else short.quantize(Decimal(1))  # type: ignore[operator]
