"""Organizations: what they hold, and how much they may."""

from http import HTTPStatus
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from accounts.models import Organization
from inference.models import Instance, Quota
from inference.models.quota import held
from portal.ops.access import operators_only

PER_PAGE = 50
NUMBER = {"class": "input num w-full", "inputmode": "numeric"}


class QuotaForm(forms.ModelForm):  # type: ignore[type-arg]
    """Empty: no bound."""

    class Meta:
        model = Quota
        fields = ("instances", "gpus", "approval_above_gpus")
        widgets = {  # noqa: RUF012  - as Django wants it
            name: forms.NumberInput(attrs=NUMBER) for name in fields
        }


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """All organizations, by name."""
    found = Organization.objects.annotate(people=Count("memberships", distinct=True))
    wanted = request.GET.get("q", "").strip()[:80]
    if wanted:
        found = found.filter(name__icontains=wanted)
    page = Paginator(found.select_related("quota").order_by("name", "id"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    rows = [(organization, held(organization)) for organization in page]
    return render(request, "ops/tenants.html", {"page": page, "rows": rows, "query": wanted})


@require_http_methods(["GET", "POST"])
@operators_only
def show(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """One organization: its instances, and the bounds that an operator sets."""
    organization = get_object_or_404(Organization, id=organization_id)
    quota = Quota.objects.filter(organization=organization).first()
    form = QuotaForm(request.POST or None, instance=quota or Quota(organization=organization))
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("The quota is saved."))
        return redirect("ops-tenant", organization_id=organization.id)
    context = {
        "organization": organization,
        "held": held(organization),
        "instances": Instance.objects.for_organization(organization).alive(),
        "form": form,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "ops/tenant.html", context, status=status)
