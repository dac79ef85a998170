"""Price lists: what holds, what will hold, and what held; and what a price would have done."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts.models import Organization
from billing import price_list, wallet
from billing.models import PriceBook, PriceVersion, Terms
from billing.price_list import SHOWN, TIMES, Line
from inference.models import Instance, Node
from portal.ops.access import operators_only
from portal.ops.price_forms import BookForm, PriceForm, TermsForm
from portal.ops.price_preview import DAYS, Effect, effect

MOST = 100  # versions that are shown


@require_http_methods(["GET", "POST"])
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """One price list, and the form that adds to it."""
    book = _book(request)
    versions = price_list.of_book(book)
    preview: Effect | None = None
    if request.method == "POST":
        form = PriceForm(request.POST, book=book)
        if form.is_valid() and "preview" in request.POST:
            preview = _previewed(book, form)
        elif form.is_valid() and _added(book, form):
            messages.success(request, _("The prices are entered."))
            return redirect(request.get_full_path())
    else:
        form = PriceForm(initial=_initial(versions), book=book)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(
        request, "ops/prices.html", _context(book, versions, form, preview), status=status
    )


@require_POST
@operators_only
def open_book(request: HttpRequest) -> HttpResponse:
    """Begin a price list of another currency, or of one organization."""
    form = BookForm(request.POST)
    if form.is_valid():
        try:
            return redirect(f"{reverse('ops-prices')}?book={form.open().id}")
        except ValidationError as problem:
            form.add_error(None, problem)
    book = PriceBook.of_house(settings.ENV.currency)
    versions = price_list.of_book(book)
    context = _context(book, versions, PriceForm(initial=_initial(versions), book=book), None)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return render(request, "ops/prices.html", context | {"book_form": form}, status=status)


@require_http_methods(["GET", "POST"])
@operators_only
def terms(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """What one organization gets off the prices."""
    organization = get_object_or_404(Organization, id=organization_id)
    currency, now = wallet.currency_of(organization), timezone.now()
    holds = price_list.terms_of(organization, now)
    form = TermsForm(request.POST or None, initial=TermsForm.of(holds), currency=currency)
    if request.method == "POST" and form.is_valid():
        try:
            Terms.agree(organization, request.user, **form.agreed())  # type: ignore[arg-type]
        except ValidationError as problem:
            form.add_error(None, problem)
        else:
            messages.success(request, _("The terms are entered."))
            return redirect(request.path)
    context = {
        "organization": organization,
        "currency": currency,
        "rows": [
            {
                "terms": each,
                **TermsForm.of(each),
                "holds": each == holds,
                "comes": each.effective_at > now,
            }
            for each in Terms.objects.for_organization(organization)[:MOST]
        ],
        "form": form,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "ops/terms.html", context, status=status)


def _book(request: HttpRequest) -> PriceBook:
    """The one that the address names, or the house's own. Raises Http404."""
    asked = request.GET.get("book", "")
    if not asked:
        return PriceBook.of_house(settings.ENV.currency)
    try:
        return PriceBook.objects.select_related("organization").get(id=UUID(asked))
    except (ValueError, PriceBook.DoesNotExist):
        raise Http404 from None


def _added(book: PriceBook, form: PriceForm) -> bool:
    try:
        book.set_rates(form.rates(), form.cleaned_data["effective_at"], **form.scope())
    except ValidationError as problem:
        form.add_error(None, problem)
    return not form.errors


def _previewed(book: PriceBook, form: PriceForm) -> Effect | None:
    rates, scope = form.rates(), form.scope()
    try:
        book.check_rates(rates, **scope)
    except ValidationError as problem:
        form.add_error(None, problem)
        return None
    return effect(book, rates, **scope)


def _initial(versions: list[PriceVersion]) -> dict[str, Any]:
    """The rates that hold for everything, as a start."""
    now = timezone.now()
    for version in versions:
        whole = not (version.model or version.engine or version.gpu_type or version.ends)
        if whole and version.effective_at <= now:
            return {meter: f"{price_list.amount(nano):f}" for meter, nano in version.nano.items()}
    return {}


def _context(
    book: PriceBook, versions: list[PriceVersion], form: PriceForm, preview: Effect | None
) -> dict[str, Any]:
    now = timezone.now()
    held = price_list.held(versions, now)
    return {
        "book": book,
        "books": PriceBook.objects.select_related("organization").order_by(
            "organization__name", "currency"
        ),
        "unpriced": price_list.unpriced(),
        "meters": [meter.label for meter in (*SHOWN, *TIMES)],
        "versions": [
            {
                "version": version,
                "amounts": [*line.amounts, *line.times],
                "holds": version.id in held,
                "comes": version.effective_at > now,
            }
            for version in versions[:MOST]
            for line in [Line(version, comes=version.effective_at > now)]
        ],
        "form": form,
        "book_form": BookForm(),
        "preview": preview,
        "preview_days": DAYS,
        "before": preview and price_list.amount(preview.before),
        "after": preview and price_list.amount(preview.after),
        "known_models": sorted(set(Instance.objects.values_list("model_id", flat=True))),
        "known_gpu_types": sorted(
            {gpu["name"] for node in Node.objects.all() for gpu in node.gpus}
        ),
    }
