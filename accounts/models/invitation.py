import hashlib
import secrets
from datetime import timedelta
from smtplib import SMTPException

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email
from django.db import models, transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models.membership import ROLE_LABELS, Membership
from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.roles import Role, may_grant
from accounts.tenancy import TenantQuerySet
from portal.lib.errors import Conflict, Unavailable
from portal.lib.ids import uuid7

LIFETIME = timedelta(days=7)


class InvitationQuerySet(TenantQuerySet):
    def unanswered(self) -> "InvitationQuerySet":
        """Neither accepted nor revoked; they may have expired."""
        return self.filter(accepted_at=None, revoked_at=None)

    def of_token(self, token: str) -> "InvitationQuerySet":
        return self.filter(token_digest=_digest(token))

    def revoke_beyond(self, user: User, organization: Organization, role: str | None) -> int:
        """Withdraw this person's invitations into roles that theirs (None: none) cannot give."""
        kept = [given for given in Role if role and may_grant(role, given)]
        beyond = self.for_organization(organization).unanswered().filter(invited_by=user)
        return beyond.exclude(role__in=kept).update(revoked_at=timezone.now())


class Invitation(models.Model):
    """An open door into an organization for one e-mail address, sent as a link."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="invitations"
    )
    email = models.EmailField(_("e-mail address"))
    role = models.CharField(_("role"), max_length=16, choices=ROLE_LABELS)
    token_digest = models.CharField(
        max_length=64, unique=True
    )  # SHA-256, hex; the link has the token
    invited_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "email"],
                condition=models.Q(accepted_at=None, revoked_at=None),
                name="one_open_invitation_per_address",
            )
        ]

    def __str__(self) -> str:
        return f"{self.email} → {self.organization}"

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def is_open(self) -> bool:
        return self.accepted_at is None and self.revoked_at is None and not self.is_expired

    @classmethod
    def send(cls, by: Membership, email: str, role: str) -> "Invitation":
        """Invite an address into `by`'s organization; a former invitation of it is replaced.

        Raises PermissionDenied, ValidationError by field, Unavailable if no mail can be sent.
        """
        email = email.strip().lower()
        organization = by.organization
        with transaction.atomic():
            Organization.objects.lock(organization.id)
            _check_role(by, role)
            _check_address(organization, email)
            open_one = organization.invitations.filter(email=email)
            open_one.unanswered().update(revoked_at=timezone.now())
            invitation = cls(organization=organization, email=email, role=role)
            invitation._mail_new_link(by)
        return invitation

    def resend(self, by: Membership) -> None:
        """Send a new link, good for another seven days; the former link ends.

        Raises PermissionDenied, Conflict if it was answered, Unavailable if no mail can be sent.
        """
        with transaction.atomic():
            Organization.objects.lock(self.organization_id)
            _check_role(by, self.role)
            self._lock_unanswered()
            self._mail_new_link(by)

    def revoke(self, by: Membership) -> None:
        """Close the door. Raises PermissionDenied, or Conflict if it was accepted already."""
        _check_role(by, self.role)
        with transaction.atomic():
            self._lock_unanswered()
            self.revoked_at = timezone.now()
            self.save(update_fields=["revoked_at"])

    def accept(self, user: User) -> Membership:
        """Make the person a member. Somebody who is one already keeps their role.

        Raises Conflict with the sentence for a door that is closed or somebody else's.
        """
        if not self.is_for(user):
            raise Conflict(self.wrong_address(user))
        with transaction.atomic():
            self._lock_unanswered()
            if self.is_expired:
                raise Conflict(self.closed_sentence())
            membership, _created = self.organization.memberships.get_or_create(
                user=user, defaults={"role": self.role}
            )
            self.accepted_at = timezone.now()
            self.save(update_fields=["accepted_at"])
        return membership

    def is_for(self, user: User) -> bool:
        """Whether one of the person's verified addresses is the one that was invited."""
        return EmailAddress.objects.filter(
            user=user, email__iexact=self.email, verified=True
        ).exists()

    def wrong_address(self, user: User) -> str:
        return gettext(
            "This invitation is for %(invited)s, but you are signed in as %(email)s. "
            "Sign out and come back with the other address, or ask for a new invitation."
        ) % {"invited": self.email, "email": user.email}

    def closed_sentence(self) -> str:
        """Why this door is closed, for people."""
        if self.accepted_at:
            return gettext("This invitation has been accepted already.")
        if self.revoked_at:
            return gettext("This invitation was withdrawn. Ask for a new one.")
        return gettext("This invitation has expired. Ask for a new one.")

    def _lock_unanswered(self) -> None:
        """Be the only one who answers it from here to the end of the transaction."""
        self.refresh_from_db(from_queryset=Invitation.objects.select_for_update())
        if self.accepted_at or self.revoked_at:
            raise Conflict(self.closed_sentence())

    def _mail_new_link(self, by: Membership) -> None:
        # Mailed before the commit, on purpose: where no mail can be sent, nothing has changed.
        token = secrets.token_urlsafe(32)
        self.token_digest = _digest(token)
        self.invited_by = by.user
        self.expires_at = timezone.now() + LIFETIME
        self.save()
        link = settings.PUBLIC_URL + reverse("invitation-accept", args=[token])
        context = {"invitation": self, "link": link, "days": LIFETIME.days}
        subject = " ".join(
            render_to_string("accounts/email/invitation_subject.txt", context).split()
        )
        body = render_to_string("accounts/email/invitation.txt", context)
        try:
            EmailMessage(subject, body, to=[self.email]).send()
        except (OSError, SMTPException) as error:
            raise Unavailable(
                _("The invitation could not be mailed just now. Try again in a few minutes.")
            ) from error


def _check_role(by: Membership, role: str) -> None:
    now = Membership.objects.filter(id=by.id).first()  # `by` may have been removed meanwhile
    if now is None or role not in dict(ROLE_LABELS) or not may_grant(now.role, role):
        raise PermissionDenied(_("You cannot give this role."))


def _check_address(organization: Organization, email: str) -> None:
    try:
        validate_email(email)
    except ValidationError as error:
        raise ValidationError({"email": error}) from error
    if organization.memberships.filter(user__email=email).exists():
        raise ValidationError(
            {"email": ValidationError(_("This person is a member already."), code="member")}
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
