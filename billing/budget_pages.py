"""Budgets: how much of each is spent, and the form that makes and changes one."""

from http import HTTPStatus
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import budgets, wallet
from billing.forms import BudgetForm
from billing.models import Budget


@require_GET
@requires(Permission.VIEW_BILLING)
def index(request: TenantRequest) -> HttpResponse:
    """Each budget with what is spent of it."""
    mine = Budget.objects.for_organization(request.organization).select_related(
        "organization", "membership__user", "api_key", "project"
    )
    context = {
        "standings": [budgets.standing(budget) for budget in mine],
        "may_manage": request.membership.allows(Permission.MANAGE_BILLING),
    }
    return render(request, "billing/budgets.html", context)


@requires(Permission.MANAGE_BILLING)
def create(request: TenantRequest) -> HttpResponse:
    """A new one."""
    return _edit(request, None)


@requires(Permission.MANAGE_BILLING)
def change(request: TenantRequest, budget_id: UUID) -> HttpResponse:
    """Change one; whose it is stays."""
    return _edit(request, _fetch(request, budget_id))


@requires(Permission.MANAGE_BILLING)
def remove(request: TenantRequest, budget_id: UUID) -> HttpResponse:
    """Ask, then take it away; what it has stopped goes on."""
    budget = _fetch(request, budget_id)
    if request.method != "POST":
        return render(request, "billing/budget_remove.html", {"budget": budget})
    budget.delete()
    messages.success(request, _("The budget is removed."))
    return redirect("budgets", request.organization.slug)


def _edit(request: TenantRequest, budget: Budget | None) -> HttpResponse:
    form = BudgetForm(
        request.POST or None,
        organization=request.organization,
        currency=wallet.profile_of(request.organization).currency,
        budget=budget,
    )
    if request.method == "POST" and form.is_valid():
        try:
            budgets.set_budget(request.organization, request.user, budget, **form.wanted())
        except ValidationError as problem:
            form.add_error(None, problem)
        else:
            messages.success(request, _("Saved."))
            return redirect("budgets", request.organization.slug)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    context = {"form": form, "budget": budget}
    return render(request, "billing/budget_form.html", context, status=status)


def _fetch(request: TenantRequest, budget_id: UUID) -> Budget:
    mine = Budget.objects.for_organization(request.organization).select_related("organization")
    budget: Budget = get_object_or_404(mine, id=budget_id)
    return budget
