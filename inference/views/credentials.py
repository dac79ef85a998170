"""The organization's token for the hub: entered, replaced, removed; never shown."""

from http import HTTPStatus

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference.models import HubCredential


class HubTokenForm(forms.Form):
    """A hub token begins with `hf_`; which models it opens is for the hub to say."""

    token = forms.RegexField(
        r"^hf_[A-Za-z0-9]{10,200}$",
        label=gettext_lazy("Token"),
        strip=True,
        widget=forms.PasswordInput(attrs={"class": "input", "autocomplete": "off"}),
        help_text=gettext_lazy(
            "Make one with read access at huggingface.co/settings/tokens. It begins with hf_."
        ),
        error_messages={"invalid": gettext_lazy("A token of the hub begins with hf_.")},
    )


@sensitive_post_parameters("token")
@requires(Permission.MANAGE_ORGANIZATION)
def hub_token(request: TenantRequest) -> HttpResponse:
    """Whether a token is set, by whom and when; a form for another."""
    form = HubTokenForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        HubCredential.keep(request.organization, form.cleaned_data["token"], request.user)
        messages.success(request, _("The token is kept, encrypted."))
        return redirect("hub-token", request.organization.slug)
    credentials = HubCredential.objects.for_organization(request.organization)
    context = {"form": form, "credential": credentials.select_related("set_by").first()}
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "inference/hub_token.html", context, status=status)


@require_POST
@requires(Permission.MANAGE_ORGANIZATION)
def remove_hub_token(request: TenantRequest) -> HttpResponse:
    """Forget the token."""
    HubCredential.objects.for_organization(request.organization).delete()
    messages.success(request, _("The token is forgotten."))
    return redirect("hub-token", request.organization.slug)
