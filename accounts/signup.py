"""Signing up: whoever comes in for the first time finds an organization waiting.

That is the one they were invited to, else one of their own. It is made when the e-mail address is
proved, not when the form is sent, so that nobody reserves addresses for organizations by typing.
"""

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import Invitation, Membership, Organization, User
from accounts.models.organization import NAME_LENGTH
from portal.lib.errors import Conflict

# What the session carries from the form or the link to the moment of coming in.
ORGANIZATION_NAME = "signup-organization"
INVITATION = "signup-invitation"
# What allauth's mails call the addresses in them.
MAILED_LINKS = ("activate_url", "password_reset_url", "signup_url")


class SignupForm(forms.Form):
    """What allauth's sign-up form asks beside address and password."""

    field_order = ("email", "password1", "organization")
    organization = forms.CharField(
        label=_("Organization"),
        max_length=NAME_LENGTH,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "organization"}),
        help_text=_("You can change its name and add others later."),
    )

    def signup(self, request: HttpRequest, user: User) -> None:
        """allauth's hook: the person exists, their address is not proved yet."""
        request.session[ORGANIZATION_NAME] = self.cleaned_data["organization"].strip()


class Adapter(DefaultAccountAdapter):
    """allauth, with an organization for those who come in for the first time."""

    def save_user(self, request: HttpRequest, user: Any, form: Any, commit: bool = True) -> Any:
        # An invitation's link proves the invited address. allauth would give it to whoever signs
        # up next in this browser, and let them in under another address that nobody proved.
        if not self.is_email_verified(request, form.cleaned_data["email"]):
            self.unstash_verified_email(request)
        return super().save_user(request, user, form, commit)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        # allauth would name and link whatever Host the request came with, so that a stranger could
        # have a link to their own machine, with the secret in it, mailed to anyone.
        home = {"current_site": SimpleNamespace(name="Modelport", domain=settings.PUBLIC_URL)}
        links = {name: at_home(context[name]) for name in MAILED_LINKS if name in context}
        super().send_mail(template_prefix, email, {**home, **context, **links})

    def login(self, request: HttpRequest, user: Any) -> None:
        if user.last_login is None:
            name = request.session.pop(ORGANIZATION_NAME, "")
            settle(user, name, request.session.pop(INVITATION, ""))
            if settings.LOCAL_OUTBOX:
                be_operator_if_first(user)
        super().login(request, user)


def at_home(address: str) -> str:
    """The same address on this installation's own public URL."""
    return settings.PUBLIC_URL + urlsplit(address)._replace(scheme="", netloc="").geturl()


def settle(user: User, name: str = "", invitation_token: str = "") -> Membership:
    """The person's first membership: by invitation, else as owner of an organization of their own.

    To settle twice changes nothing.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(id=user.id)  # two tabs, one organization
        first = user.memberships.order_by("id").first()
        if first is not None:
            return first
        invited = _accepted(user, invitation_token)
        if invited is not None:
            return invited
        Organization.found(name or default_name(user.email), user)
        return user.memberships.get()


def be_operator_if_first(user: User) -> None:
    """On a machine that delivers no mail, whoever comes in first is whoever set it up.

    Elsewhere `modelport operator` says who is: a stranger may be the first to sign up.
    """
    with transaction.atomic():
        people = User.objects.select_for_update().order_by("date_joined", "id")
        if people.first() == user and not User.objects.filter(is_staff=True).exists():
            user.is_staff = True
            user.save(update_fields=["is_staff"])


def default_name(email: str) -> str:
    """A name for an organization whose founder gave none: `Alice's organization`."""
    local = email.partition("@")[0].partition("+")[0]
    person = " ".join(part.capitalize() for part in local.replace("_", ".").split(".") if part)
    return gettext("%(person)s's organization") % {"person": person[:40]}


def _accepted(user: User, token: str) -> Membership | None:
    invitation = Invitation.objects.of_token(token).first() if token else None
    if invitation is None:
        return None
    try:
        with transaction.atomic():
            membership: Membership = invitation.accept(user)
    except Conflict:
        return None  # expired, withdrawn or somebody else's: its own page says so
    return membership
