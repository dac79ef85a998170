"""API keys: made, shown once, rotated, ended."""

from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms import Form
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from accounts.forms import KeyForm, OriginsForm, RotateForm
from accounts.models import ApiKey
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from portal.lib.errors import Conflict
from portal.lib.snippets import snippets

SOON = timedelta(days=7)
LONG_UNUSED = timedelta(days=90)


@require_GET
@requires(Permission.USE)
def index(request: TenantRequest) -> HttpResponse:
    """The keys that this member may see: their own, or everyone's."""
    now = timezone.now()
    visible = ApiKey.objects.visible_to(request.membership).select_related("created_by")
    everything = "ended" in request.GET
    context = {
        "keys": visible if everything else visible.usable(),
        "ended_count": visible.count() - visible.usable().count(),
        "everything": everything,
        "sees_all": request.membership.allows(Permission.MANAGE_KEYS),
        "soon": now + SOON,
        "long_ago": now - LONG_UNUSED,
    }
    return render(request, "accounts/keys.html", context)


@never_cache
@requires(Permission.USE)
def create(request: TenantRequest) -> HttpResponse:
    """A form, then the key itself, this once."""
    form = KeyForm(request.POST or None, membership=request.membership)
    if request.method == "POST" and form.is_valid():
        try:
            key, plain = ApiKey.issue(request.organization, request.user, **form.wanted())
        except ValidationError as error:
            _show(error, form)
        except Conflict as error:
            messages.error(request, str(error))
            return redirect("keys", request.organization.slug)
        else:
            return _told_once(request, key, plain)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/key_create.html", {"form": form}, status=status)


@requires(Permission.USE)
def show(request: TenantRequest, key_id: UUID) -> HttpResponse:
    """One key: what it may call, and from which websites, which can be changed."""
    key = _fetch(request, key_id)
    form = OriginsForm(request.POST or None, initial={"origins": key.origins})
    if request.method == "POST" and form.is_valid():
        try:
            key.allow_origins(form.cleaned_data["origins"])
        except ValidationError as error:
            _show(error, form)
        except Conflict as error:
            messages.error(request, str(error))
            return redirect("key", request.organization.slug, key.id)
        else:
            messages.success(request, _("Saved. It holds within a second."))
            return redirect("key", request.organization.slug, key.id)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/key.html", {"key": key, "form": form}, status=status)


@requires(Permission.USE)
def revoke(request: TenantRequest, key_id: UUID) -> HttpResponse:
    """Ask, then end the key."""
    key = _fetch(request, key_id)
    if request.method != "POST":
        return render(request, "accounts/key_revoke.html", {"key": key})
    key.revoke(by=request.user)
    messages.success(request, _("%(name)s is revoked. It works nowhere.") % {"name": key.name})
    return redirect("keys", request.organization.slug)


@never_cache
@requires(Permission.USE)
def rotate(request: TenantRequest, key_id: UUID) -> HttpResponse:
    """Ask for how long both keys are to work, then show the new one, this once."""
    key = _fetch(request, key_id)
    form = RotateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            new, plain = key.rotate(request.user, form.cleaned_data["overlap"])
        except Conflict as error:
            messages.error(request, str(error))
            return redirect("keys", request.organization.slug)
        return _told_once(request, new, plain)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/key_rotate.html", {"key": key, "form": form}, status=status)


def _show(error: ValidationError, form: Form) -> None:
    """What the model refused, beside the field that it is about."""
    for name, problems in error.error_dict.items():
        form.add_error(name if name in form.fields else None, problems)


def _fetch(request: TenantRequest, key_id: UUID) -> ApiKey:
    key: ApiKey = get_object_or_404(ApiKey.objects.visible_to(request.membership), id=key_id)
    return key


def _told_once(request: TenantRequest, key: ApiKey, plain: str) -> HttpResponse:
    # Rendered as the answer to the POST: a redirect would have to store the key somewhere.
    base_url = f"{settings.PUBLIC_URL}/v1"
    names = key.models_allowed or sorted(request.organization.model_names())
    context = {
        "key": key,
        "plain": plain,
        "base_url": base_url,
        "api_url": f"{settings.PUBLIC_URL}/api/v1",
        "snippets": snippets(base_url, names[0] if names else "my-model", plain),
    }
    return render(request, "accounts/key_created.html", context)
