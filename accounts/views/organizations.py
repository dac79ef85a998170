"""Organizations: a new one, its settings, and the door by which the invited come in."""

from http import HTTPStatus
from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from accounts.forms import OrganizationForm
from accounts.models import Invitation, Organization, User
from accounts.roles import Permission
from accounts.signup import INVITATION
from accounts.tenancy import TenantRequest, requires
from portal.lib.errors import Conflict


@login_required
def create(request: HttpRequest) -> HttpResponse:
    """Found an organization."""
    assert isinstance(request.user, User)  # noqa: S101  (login_required has seen to it)
    form = OrganizationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return redirect(Organization.found(form.cleaned_data["name"], request.user))
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/organization_create.html", {"form": form}, status=status)


@requires(Permission.VIEW)
def settings(request: TenantRequest) -> HttpResponse:
    """The organization's name, and the ways to what else can be set. Members may look."""
    may_manage = request.membership.allows(Permission.MANAGE_ORGANIZATION)
    form = OrganizationForm.of(request.organization)
    if request.method == "POST":
        if not may_manage:
            raise PermissionDenied
        form = OrganizationForm(request.POST)
        if form.is_valid():
            request.organization.rename(form.cleaned_data["name"])
            messages.success(request, _("Saved."))
            return redirect("organization-settings", request.organization.slug)
    context = {"form": form, "may_manage": may_manage, "role": request.membership}
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/organization_settings.html", context, status=status)


@never_cache
def accept(request: HttpRequest, token: str) -> HttpResponse:
    """The invited person's door: sign up, sign in, or join."""
    invitations = Invitation.objects.select_related("organization", "invited_by")
    invitation: Invitation = get_object_or_404(invitations.of_token(token))
    user = request.user
    if isinstance(user, User):
        if invitation.accepted_at and invitation.organization.memberships.filter(user=user):
            return redirect(invitation.organization)
        return _join(request, invitation, user)
    if not invitation.is_open:
        return _closed(request, invitation)
    # Whoever has the link reads the mailbox that it was sent to: no code is needed again.
    get_adapter(request).stash_verified_email(request, invitation.email)
    request.session[INVITATION] = token
    address = urlencode({"next": reverse("invitation-accept", args=[token])})
    context = {
        "invitation": invitation,
        "known": User.objects.filter(email=invitation.email).exists(),
        "sign_up": f"{reverse('account_signup')}?{address}",
        "sign_in": f"{reverse('account_login')}?{address}",
    }
    return render(request, "accounts/invitation.html", context)


def _join(request: HttpRequest, invitation: Invitation, user: User) -> HttpResponse:
    if not invitation.is_open:
        return _closed(request, invitation)
    problem = "" if invitation.is_for(user) else invitation.wrong_address(user)
    if request.method == "POST" and not problem:
        try:
            invitation.accept(user)
        except Conflict as error:
            messages.error(request, str(error))
            return redirect("home")
        messages.success(request, _("Welcome to %s.") % invitation.organization)
        return redirect(invitation.organization)
    context = {"invitation": invitation, "problem": problem}
    return render(request, "accounts/invitation.html", context)


def _closed(request: HttpRequest, invitation: Invitation) -> HttpResponse:
    context = {"problem": invitation.closed_sentence()}
    return render(request, "accounts/invitation_closed.html", context, status=HTTPStatus.GONE)
