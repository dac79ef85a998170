"""The public page of prices."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import price_list
from billing.models import PriceBook
from billing.price_list import SHOWN, TIMES


@require_GET
def pricing(request: HttpRequest) -> HttpResponse:
    """The house's price list, by currency: what holds now, and what is announced."""
    currencies = price_list.currencies()
    asked = request.GET.get("currency", "")
    currency = asked if asked in currencies else next(iter(currencies), "")
    now = timezone.now()
    book = PriceBook.objects.filter(organization=None, currency=currency).first()
    versions = price_list.of_book(book) if book else []
    context = {
        "currencies": currencies,
        "currency": currency,
        "meters": [meter.label for meter in SHOWN],
        "times": [meter.label for meter in TIMES],
        "requests": price_list.lines(versions, now),
        "gpu_time": price_list.lines(versions, now, [meter.value for meter in TIMES]),
        "now": now,
    }
    return render(request, "billing/pricing.html", context)
