"""Members of an organization and those who are invited."""

from http import HTTPStatus
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from accounts.forms import InvitationForm, role_choices
from accounts.models import ApiKey, Invitation, Membership
from accounts.models.membership import ROLE_LABELS, ROLE_MEANINGS
from accounts.roles import Permission, Role
from accounts.tenancy import TenantRequest, requires
from portal.lib.errors import Conflict, Unavailable


@require_GET
@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """Who is in, with which role; who is invited."""
    return _members(request, InvitationForm(membership=request.membership))


@require_POST
@requires(Permission.MANAGE_MEMBERS)
def invite(request: TenantRequest) -> HttpResponse:
    """Mail an invitation."""
    form = InvitationForm(request.POST, membership=request.membership)
    if form.is_valid():
        email = form.cleaned_data["email"]
        try:
            Invitation.send(request.membership, email, form.cleaned_data["role"])
        except ValidationError as error:
            form.add_error(None, error)
        except Unavailable as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _("An invitation is on its way to %s.") % email)
            return redirect("members", request.organization.slug)
    return _members(request, form, HTTPStatus.UNPROCESSABLE_ENTITY)


@require_POST
@requires(Permission.MANAGE_MEMBERS)
def resend(request: TenantRequest, invitation_id: UUID) -> HttpResponse:
    """Mail a new link."""
    invitation = _invitation(request, invitation_id)
    try:
        invitation.resend(by=request.membership)
    except (Conflict, Unavailable) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("A new link is on its way to %s.") % invitation.email)
    return redirect("members", request.organization.slug)


@require_POST
@requires(Permission.MANAGE_MEMBERS)
def withdraw(request: TenantRequest, invitation_id: UUID) -> HttpResponse:
    """End an invitation."""
    invitation = _invitation(request, invitation_id)
    try:
        invitation.revoke(by=request.membership)
    except Conflict as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("The invitation of %s is withdrawn.") % invitation.email)
    return redirect("members", request.organization.slug)


@require_POST
@requires(Permission.MANAGE_MEMBERS)
def change_role(request: TenantRequest, member_id: UUID) -> HttpResponse:
    """Give a member another role."""
    member = _member(request, member_id)
    wanted = request.POST.get("role", "")
    try:
        if wanted not in dict(ROLE_LABELS):
            raise Conflict(_("There is no such role."))
        member.change_role(Role(wanted), by=request.membership)
    except Conflict as error:
        messages.error(request, str(error))
    else:
        words = {"email": member.user.email, "role": member.get_role_display()}
        messages.success(request, _("%(email)s is now: %(role)s.") % words)
    return redirect("members", request.organization.slug)


@requires(Permission.VIEW)
def remove(request: TenantRequest, member_id: UUID) -> HttpResponse:
    """Ask, then take a member out; of oneself, that is leaving."""
    member = _member(request, member_id)
    leaving = member.id == request.membership.id
    if request.method != "POST":
        return _ask_to_remove(request, member, leaving)
    try:
        member.remove(by=request.membership)
    except Conflict as error:
        messages.error(request, str(error))
        return redirect("members", request.organization.slug)
    if leaving:
        messages.success(request, _("You have left %s.") % request.organization)
        return redirect("home")
    messages.success(request, _("%s is no longer a member.") % member.user.email)
    return redirect("members", request.organization.slug)


def _members(
    request: TenantRequest, form: InvitationForm, status: int = HTTPStatus.OK
) -> HttpResponse:
    may_manage = request.membership.allows(Permission.MANAGE_MEMBERS)
    members = request.organization.memberships.select_related("user", "organization")
    rows = [
        {"member": member, "may_manage": may_manage and request.membership.may_manage(member)}
        for member in members.order_by("user__email")
    ]
    invitations = Invitation.objects.for_organization(request.organization).unanswered()
    context = {
        "rows": rows,
        "may_manage": may_manage,
        "invitations": invitations.select_related("invited_by").order_by("-id")
        if may_manage
        else [],
        "form": form,
        "roles": role_choices(request.membership),
        "meanings": [(label, ROLE_MEANINGS[Role(value)]) for value, label in ROLE_LABELS],
    }
    return render(request, "accounts/members.html", context, status=status)


def _ask_to_remove(request: TenantRequest, member: Membership, leaving: bool) -> HttpResponse:
    keys = ApiKey.objects.for_organization(request.organization).usable().shown()
    context = {
        "member": member,
        "leaving": leaving,
        "keys": keys.filter(created_by=member.user).count(),
    }
    return render(request, "accounts/member_remove.html", context)


def _member(request: TenantRequest, member_id: UUID) -> Membership:
    members = Membership.objects.for_organization(request.organization)
    member: Membership = get_object_or_404(members.select_related("user"), id=member_id)
    return member


def _invitation(request: TenantRequest, invitation_id: UUID) -> Invitation:
    theirs = Invitation.objects.for_organization(request.organization)
    invitation: Invitation = get_object_or_404(theirs, id=invitation_id)
    return invitation
