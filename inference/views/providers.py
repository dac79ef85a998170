"""External providers: entered, their secrets replaced, removed. Secrets are never shown."""

from http import HTTPStatus
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET

from accounts.forms import StyledForm
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference.forms import name_field
from inference.models import Provider
from portal.lib.errors import Conflict


class SecretForm(StyledForm):
    """A provider's API key, to be kept encrypted."""

    secret = forms.CharField(
        label=gettext_lazy("Its API key"),
        max_length=1024,
        widget=forms.PasswordInput(attrs={"class": "input", "autocomplete": "off"}),
        help_text=gettext_lazy("Kept encrypted, sent to this provider only, never shown."),
    )

    def take_errors(self, error: ValidationError) -> None:
        """Show what the model refused beside the field that it is about."""
        for name, problems in error.error_dict.items():
            self.add_error(name if name in self.fields else None, problems)


class ProviderForm(SecretForm):
    """An OpenAI-compatible service and the key by which we call it."""

    name = name_field(gettext_lazy("What your routes call it, for example “openai”."))
    base_url = forms.CharField(
        label=gettext_lazy("Base URL"),
        max_length=512,
        widget=forms.URLInput(
            attrs={"class": "input", "placeholder": "https://api.example.com/v1"}
        ),
        help_text=gettext_lazy("Of any service that speaks OpenAI's protocol, up to its /v1."),
    )
    field_order = ("name", "base_url", "secret")


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """The providers that routes may lead to."""
    theirs = Provider.objects.for_organization(request.organization)
    context = {
        "providers": theirs.select_related("set_by").annotate(
            routes=Count("route_targets__route", distinct=True)
        ),
        "may_manage": request.membership.allows(Permission.MANAGE_ORGANIZATION),
    }
    return render(request, "inference/providers.html", context)


@sensitive_post_parameters("secret")
@requires(Permission.MANAGE_ORGANIZATION)
def create(request: TenantRequest) -> HttpResponse:
    """Enter a provider."""
    form = ProviderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            provider = Provider.add(request.organization, request.user, **form.cleaned_data)
        except ValidationError as error:
            form.take_errors(error)
        else:
            messages.success(request, _("%s is there. Routes may lead to it.") % provider.name)
            return redirect("providers", request.organization.slug)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "inference/provider_create.html", {"form": form}, status=status)


@sensitive_post_parameters("secret")
@requires(Permission.MANAGE_ORGANIZATION)
def rotate(request: TenantRequest, provider_id: UUID) -> HttpResponse:
    """Put another secret in the place of the present one."""
    provider = _fetch(request, provider_id)
    form = SecretForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            provider.rotate(request.user, form.cleaned_data["secret"])
        except ValidationError as error:
            form.take_errors(error)
        else:
            messages.success(request, _("The new key of %s holds within a second.") % provider.name)
            return redirect("providers", request.organization.slug)
    context = {"provider": provider, "form": form}
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "inference/provider_rotate.html", context, status=status)


@requires(Permission.MANAGE_ORGANIZATION)
def remove(request: TenantRequest, provider_id: UUID) -> HttpResponse:
    """Ask, then forget it."""
    provider = _fetch(request, provider_id)
    if request.method != "POST":
        return render(request, "inference/provider_remove.html", {"provider": provider})
    name = provider.name
    try:
        provider.remove()
    except Conflict as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("%s and its key are forgotten.") % name)
    return redirect("providers", request.organization.slug)


def _fetch(request: TenantRequest, provider_id: UUID) -> Provider:
    theirs = Provider.objects.for_organization(request.organization)
    provider: Provider = get_object_or_404(theirs, id=provider_id)
    return provider
