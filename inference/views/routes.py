"""Routes: names that lead to instances and providers. All of it works without JavaScript."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms import formset_factory
from django.http import HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET

from accounts.forms import StyledForm
from accounts.models import Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference.forms import name_field
from inference.models import Instance, Provider, Route, RouteTarget
from inference.models.route import MOST_TARGETS, Way

MORE_ROWS = 2  # empty ones, to fill in
ROW = ("tier", "place", "provider_model", "weight")
NUMBER = {"class": "input num w-full", "inputmode": "numeric"}


class RouteForm(StyledForm):
    """Its name, once and for good, and whether prompts may leave."""

    name = name_field(gettext_lazy("Programs say this name as “model”."))
    data_may_leave = forms.BooleanField(
        label=gettext_lazy("May fall back to providers"),
        required=False,
        widget=forms.CheckboxInput(attrs={"class": "input"}),
        help_text=gettext_lazy(
            "When your own instances cannot answer, prompts may go to a provider that stands after "
            "them. Without it they never leave a route that begins with an instance."
        ),
    )

    def __init__(self, *args: Any, named: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if named:
            del self.fields["name"]


class TargetForm(StyledForm):
    """One row: where to, and when. Without a place the row counts for nothing."""

    tier = forms.TypedChoiceField(
        label=gettext_lazy("Order"),
        coerce=int,
        widget=forms.Select(attrs={"class": "select w-full"}),
    )
    place = forms.ChoiceField(label=gettext_lazy("Leads to"), required=False)
    provider_model = forms.CharField(
        label=gettext_lazy("Model there"),
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"class": "input w-full", "spellcheck": "false"}),
    )
    weight = forms.IntegerField(
        label=gettext_lazy("Weight"),
        min_value=1,
        max_value=1000,
        initial=1,
        widget=forms.NumberInput(attrs=NUMBER),
    )

    def __init__(
        self,
        *args: Any,
        instances: dict[str, Instance],
        providers: dict[str, Provider],
        **rest: Any,
    ) -> None:
        super().__init__(*args, **rest)
        self.instances, self.providers = instances, providers
        own = [(key, instance.name) for key, instance in instances.items()]
        outside = [(key, provider.name) for key, provider in providers.items()]
        groups = [(_("Instances"), own), (_("Providers"), outside)]
        self.fields["place"].choices = [  # type: ignore[attr-defined]
            ("", "–"),
            *(group for group in groups if group[1]),
        ]
        self.fields["tier"].choices = [(n, n + 1) for n in range(MOST_TARGETS)]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """A provider needs a model's name, an instance has its own."""
        data = super().clean() or {}
        if data.get("place") in self.providers and not data.get("provider_model"):
            self.add_error("provider_model", _("Name the model as the provider knows it."))
        return data

    def way(self) -> Way | None:
        """What the row says; None where it leads nowhere."""
        data = self.cleaned_data
        instance = self.instances.get(data.get("place", ""))
        provider = self.providers.get(data.get("place", ""))
        if instance is None and provider is None:
            return None
        model = data["provider_model"] if provider else ""
        return Way(instance, provider, model, data["tier"], data["weight"])


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """All routes, each with its targets in the order in which they are tried."""
    theirs = Route.objects.for_organization(request.organization)
    routes = theirs.prefetch_related("targets__instance", "targets__provider")
    context = {
        "routes": [(route, in_steps(list(route.targets.all()))) for route in routes],
        "may_manage": request.membership.allows(Permission.MANAGE_INSTANCES),
    }
    return render(request, "inference/routes.html", context)


@requires(Permission.MANAGE_INSTANCES)
def create(request: TenantRequest) -> HttpResponse:
    """A name and where it leads."""
    form = _form(request, {})
    rows = _rows(request, ())
    if _sent(request, form, rows):
        facts = form.cleaned_data | {"ways": _ways(rows)}
        try:
            route = Route.make(request.organization, request.user, **facts)
        except ValidationError as error:
            _show(error, form)
        else:
            messages.success(request, _("Programs may say %s now.") % route.name)
            return redirect("routes", request.organization.slug)
    return _page(request, "inference/route_create.html", form, rows, {})


@requires(Permission.MANAGE_INSTANCES)
def change(request: TenantRequest, route_id: UUID) -> HttpResponse:
    """Other targets for the same name."""
    route = _fetch(request, route_id)
    targets = list(route.targets.select_related("instance", "provider"))
    form = _form(request, {"data_may_leave": route.data_may_leave}, named=True)
    rows = _rows(request, targets)
    if _sent(request, form, rows):
        try:
            route.change(ways=_ways(rows), data_may_leave=form.cleaned_data["data_may_leave"])
        except ValidationError as error:
            _show(error, form)
        else:
            messages.success(request, _("Saved. It holds within a second."))
            return redirect("routes", request.organization.slug)
    return _page(request, "inference/route.html", form, rows, {"route": route})


@requires(Permission.MANAGE_INSTANCES)
def remove(request: TenantRequest, route_id: UUID) -> HttpResponse:
    """Ask, then end the name."""
    route = _fetch(request, route_id)
    if request.method != "POST":
        return render(request, "inference/route_delete.html", {"route": route})
    route.delete()
    messages.success(request, _("The route %s is gone.") % route.name)
    return redirect("routes", request.organization.slug)


def in_steps(targets: Sequence[RouteTarget]) -> list[list[RouteTarget]]:
    """What is tried first, what after that, and so on; of deleted instances nothing is left."""
    alive = [t for t in targets if t.instance is None or t.instance.deleted_at is None]
    tiers = sorted({target.tier for target in alive})
    return [[target for target in alive if target.tier == tier] for tier in tiers]


def _fetch(request: TenantRequest, route_id: UUID) -> Route:
    theirs = Route.objects.for_organization(request.organization)
    route: Route = get_object_or_404(theirs, id=route_id)
    return route


def _sent(request: TenantRequest, form: forms.Form, rows: Any) -> bool:
    """Whether it is to be saved as it stands; the other button only asks for more rows."""
    if request.method != "POST" or _asks_for_more(request):
        return False
    return bool(form.is_valid() & rows.is_valid())


def _form(request: TenantRequest, initial: dict[str, Any], *, named: bool = False) -> RouteForm:
    if _asks_for_more(request):  # what is typed stays as it is, unchecked
        typed = {name: request.POST.get(name, "") for name in ("name", "data_may_leave")}
        return RouteForm(initial=typed, named=named)
    return RouteForm(request.POST or None, initial=initial, named=named)


def _rows(request: TenantRequest, targets: Sequence[RouteTarget]) -> Any:
    """The rows of the form: those that are there, and empty ones."""
    places = _places(request.organization)
    made = formset_factory(
        TargetForm,
        extra=MORE_ROWS,
        max_num=MOST_TARGETS,
        absolute_max=MOST_TARGETS,
        validate_max=True,
    )
    if _asks_for_more(request):
        return made(initial=_typed(request.POST), form_kwargs=places)
    if request.method == "POST":
        return made(request.POST, form_kwargs=places)
    initial = [
        {
            "tier": target.tier,
            "place": _place(target),
            "provider_model": target.provider_model,
            "weight": target.weight,
        }
        for step in in_steps(targets)
        for target in step
    ]
    return made(initial=initial, form_kwargs=places)


def _asks_for_more(request: TenantRequest) -> bool:
    return request.method == "POST" and "more" in request.POST


def _typed(sent: QueryDict) -> list[dict[str, str]]:
    """What is in the rows so far."""
    rows = []
    for number in range(MOST_TARGETS):
        if f"form-{number}-tier" in sent:
            rows.append({name: sent.get(f"form-{number}-{name}", "") for name in ROW})
    return rows


def _places(organization: Organization) -> dict[str, Any]:
    """Where a route may lead, by what the form calls it."""
    instances = Instance.objects.for_organization(organization).alive().order_by("name")
    providers = Provider.objects.for_organization(organization)
    return {
        "instances": {f"i-{instance.id}": instance for instance in instances},
        "providers": {f"p-{provider.id}": provider for provider in providers},
    }


def _place(target: RouteTarget) -> str:
    return f"i-{target.instance_id}" if target.instance_id else f"p-{target.provider_id}"


def _ways(rows: Any) -> list[Way]:
    return [way for way in (row.way() for row in rows) if way is not None]


def _show(error: ValidationError, form: forms.Form) -> None:
    """What the model refused, beside the field that it is about."""
    for name, problems in error.error_dict.items():
        form.add_error(name if name in form.fields else None, problems)


def _page(
    request: TenantRequest, template: str, form: RouteForm, rows: Any, context: dict[str, Any]
) -> HttpResponse:
    context |= {"form": form, "rows": rows, "full": len(rows.forms) >= MOST_TARGETS}
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.is_bound else HTTPStatus.OK
    return render(request, template, context, status=status)
