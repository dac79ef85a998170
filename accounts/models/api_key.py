from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import keys, origins
from accounts.models.membership import Membership
from accounts.models.organization import Organization
from accounts.models.project import Project
from accounts.models.user import User
from accounts.roles import Permission, allows
from accounts.tenancy import TenantQuerySet
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7

PLAYGROUND_LIFETIME = timedelta(hours=1)
EXPIRY_MARGIN = timedelta(minutes=5)  # a playground key is renewed this long before its end
LAST_USED_STEP = timedelta(minutes=1)  # "last used" is written at most this often
MOST_ORIGINS = 20


class ApiKeyQuerySet(TenantQuerySet):
    def usable(self) -> "ApiKeyQuerySet":
        """Neither revoked nor expired."""
        unexpired = models.Q(expires_at=None) | models.Q(expires_at__gt=timezone.now())
        return self.filter(unexpired, revoked_at=None)

    def shown(self) -> "ApiKeyQuerySet":
        """What people made themselves; the playground's keys come and go unseen."""
        return self.exclude(kind=ApiKey.Kind.PLAYGROUND)

    def visible_to(self, membership: Membership) -> "ApiKeyQuerySet":
        """The keys a member may see and revoke: their own, or all with MANAGE_KEYS."""
        theirs = self.for_organization(membership.organization).shown()
        if membership.allows(Permission.MANAGE_KEYS):
            return theirs
        return theirs.filter(created_by=membership.user)

    def revoke_beyond(self, user: User, organization: Organization, role: str | None) -> int:
        """Revoke this person's keys that their role (None: no longer a member) could not make.

        A key never reaches further than whoever made it.
        """
        kept = [kind for kind in ApiKey.Kind if role and may_hold(role, kind)]
        beyond = self.for_organization(organization).filter(created_by=user, revoked_at=None)
        return beyond.exclude(kind__in=kept).update(revoked_at=timezone.now())


class ApiKey(models.Model):
    """A secret for calling the gateway or the REST API. We keep its digest, never the key."""

    class Kind(models.TextChoices):
        API = "api", _("API key")  # calls /v1
        MANAGEMENT = "management", _("Management key")  # calls /api/v1
        PLAYGROUND = "playground", _("Playground")  # short-lived, of a user's session; calls /v1

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="api_keys"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.API)
    name = models.CharField(_("name"), max_length=80)
    prefix = models.CharField(max_length=12)
    last4 = models.CharField(max_length=4)
    digest = models.BinaryField(max_length=32, unique=True)
    pepper_version = models.SmallIntegerField(default=keys.PEPPER_VERSION)
    models_allowed = ArrayField(
        models.CharField(max_length=63), default=list, blank=True, verbose_name=_("models")
    )  # names of instances and routes; empty: all of the organization
    origins = ArrayField(
        models.CharField(max_length=256), default=list, blank=True, verbose_name=_("websites")
    )  # whose programs may call with it from a browser: "https://app.example", "*": any
    project = models.ForeignKey(
        Project, on_delete=models.SET_NULL, null=True, blank=True, related_name="keys"
    )  # what its usage is counted for
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    rotated_from = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="rotated_to"
    )
    last_used_at = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.masked})"

    @property
    def masked(self) -> str:
        """The ends by which a person recognises the key: `mp-1a2B3c…9xYz`."""
        return f"{self.prefix}…{self.last4}"

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def is_usable(self) -> bool:
        return self.revoked_at is None and not self.is_expired

    def about_to_expire(self) -> bool:
        """Whether the key ends within minutes, so that a long-lived user should get another."""
        return self.expires_at is not None and self.expires_at - timezone.now() < EXPIRY_MARGIN

    @classmethod
    @transaction.atomic
    def issue(
        cls,
        organization: Organization,
        by: User,
        name: str,
        kind: str = Kind.API,
        models_allowed: Iterable[str] = (),
        expires_at: datetime | None = None,
        origins: Iterable[str] = (),
        project: Project | None = None,
        id: UUID | None = None,
    ) -> tuple["ApiKey", str]:
        """Make a key: (what we keep, the key itself, which nobody can ever read again).

        An `id` chosen beforehand makes a repeated request a Conflict instead of a second key.
        Raises PermissionDenied if `by` may not have such a key, ValidationError by field, Conflict.
        """
        _check_may_hold(organization, by, kind)
        allowed = sorted(set(models_allowed))
        problems: dict[str, Any] = _expiry_problem(expires_at)
        problems |= _models_problem(organization, allowed)
        problems |= _project_problem(organization, project)
        key, plain = cls._made(organization, by, name.strip(), kind, allowed, expires_at)
        key.id, key.project = id or key.id, project
        try:
            key.origins = _checked_origins(kind, origins)
        except ValidationError as error:
            problems |= error.error_dict
        try:
            key.clean_fields(exclude=["revoked_by", "rotated_from"])
        except ValidationError as error:
            problems = error.error_dict | problems
        if problems:
            raise ValidationError(problems)
        try:
            with transaction.atomic():
                key.save(force_insert=True)
        except IntegrityError as error:  # only the id can be taken: digests are random
            raise Conflict(
                _("This key has been made already. A key is shown only once.")
            ) from error
        return key, plain

    @classmethod
    def playground(cls, organization: Organization, user: User) -> tuple["ApiKey", str]:
        """A key of one hour for a user's own playground. Raises PermissionDenied."""
        expires_at = timezone.now() + PLAYGROUND_LIFETIME
        return cls.issue(
            organization, user, "playground", cls.Kind.PLAYGROUND, expires_at=expires_at
        )

    @classmethod
    def authenticate(cls, plain: str, kind: str) -> "ApiKey | None":
        """The usable key of this kind that `plain` is, or None.

        A key lives only as long as its maker is a member who could make it today.
        """
        if not keys.well_formed(plain):
            return None
        digest = keys.digest(plain, settings.API_KEY_PEPPER)
        key = (
            cls.objects.usable()
            .select_related("organization", "created_by")
            .filter(digest=digest, kind=kind, created_by__is_active=True)
            .first()
        )
        if key is None:
            return None
        membership = key.organization.memberships.filter(user=key.created_by).first()
        if membership is None or not may_hold(membership.role, kind):
            return None
        key._touch()
        return key

    def revoke(self, by: User) -> None:
        """End the key at once, everywhere. To revoke twice changes nothing."""
        ended = ApiKey.objects.filter(id=self.id, revoked_at=None)
        ended.update(revoked_at=timezone.now(), revoked_by=by)
        self.refresh_from_db(fields=["revoked_at", "revoked_by"])

    def rotate(self, by: User, overlap: timedelta = timedelta(0)) -> tuple["ApiKey", str]:
        """Make this key's successor; this one ends after `overlap`, or earlier if it was to.

        Raises PermissionDenied, or Conflict if the key has ended or is being rotated already.
        """
        with transaction.atomic():
            _check_may_hold(self.organization, by, self.kind)
            old = ApiKey.objects.select_for_update().get(id=self.id)
            if not old.is_usable:
                raise Conflict(_("This key has ended and cannot be rotated. Make a new one."))
            if old.rotated_to.exists():
                raise Conflict(_("This key has been rotated already."))
            new, plain = self._made(
                old.organization, by, old.name, old.kind, old.models_allowed, old.expires_at
            )
            new.rotated_from, new.project = old, old.project
            new.origins = old.origins
            new.save(force_insert=True)
            new._take_limits(old)
            old._end_after(overlap, by)
        self.refresh_from_db(fields=["expires_at", "revoked_at", "revoked_by"])
        return new, plain

    def allow_origins(self, origins: Iterable[str]) -> None:
        """Let programs of these websites, and no others, call with it from a browser.

        Raises ValidationError, or Conflict if the key has ended.
        """
        checked = _checked_origins(self.kind, origins)
        if not ApiKey.objects.usable().filter(id=self.id).update(origins=checked):
            raise Conflict(_("This key has ended."))
        self.origins = checked

    @classmethod
    def _made(
        cls,
        organization: Organization,
        by: User,
        name: str,
        kind: str,
        models_allowed: list[str],
        expires_at: datetime | None,
    ) -> tuple["ApiKey", str]:
        plain = keys.generate()
        prefix, last4 = keys.visible(plain)
        key = cls(
            organization=organization,
            created_by=by,
            name=name,
            kind=kind,
            models_allowed=models_allowed,
            expires_at=expires_at,
            prefix=prefix,
            last4=last4,
            digest=keys.digest(plain, settings.API_KEY_PEPPER),
        )
        return key, plain

    def _end_after(self, overlap: timedelta, by: User) -> None:
        now = timezone.now()
        if overlap <= timedelta(0):
            self.revoked_at, self.revoked_by = now, by
        else:
            self.expires_at = min(self.expires_at or now + overlap, now + overlap)
        self.save(update_fields=["expires_at", "revoked_at", "revoked_by"])

    def _take_limits(self, old: "ApiKey") -> None:
        """Nobody gets rid of a limit by changing keys."""
        # `limits` is the other end of a relation that the inference app declares.
        for limit in old.limits.all():
            limit.pk, limit.api_key, limit._state.adding = uuid7(), self, True
            limit.save(force_insert=True)
        # So is `budgets`, of billing; they count what the former keys have used as well.
        old.budgets.update(api_key=self)

    def _touch(self) -> None:
        now = timezone.now()
        if self.last_used_at is None or now - self.last_used_at >= LAST_USED_STEP:
            ApiKey.objects.filter(id=self.id).update(last_used_at=now)


_NEEDED = {
    ApiKey.Kind.API: Permission.USE,
    ApiKey.Kind.PLAYGROUND: Permission.USE,
    ApiKey.Kind.MANAGEMENT: Permission.MANAGE_KEYS,
}


def may_hold(role: str, kind: str) -> bool:
    """Whether a member with this role may have keys of this kind."""
    return allows(role, _NEEDED[ApiKey.Kind(kind)])


def _check_may_hold(organization: Organization, user: User, kind: str) -> None:
    # Locked until the key is there, so that whoever takes the role away finds it and ends it.
    membership = organization.memberships.select_for_update(no_key=True).filter(user=user).first()
    if membership is None or not may_hold(membership.role, kind):
        raise PermissionDenied(_("Your role does not allow keys of this kind."))


def _expiry_problem(expires_at: datetime | None) -> dict[str, ValidationError]:
    if expires_at is None or expires_at > timezone.now():
        return {}
    return {"expires_at": ValidationError(_("Choose a time in the future."), code="past")}


def _project_problem(
    organization: Organization, project: Project | None
) -> dict[str, ValidationError]:
    if project is None or (
        project.organization_id == organization.id and project.archived_at is None
    ):
        return {}
    return {"project": ValidationError(_("There is no such project."), code="unknown_project")}


def _models_problem(organization: Organization, names: list[str]) -> dict[str, ValidationError]:
    known = organization.model_names()
    unknown = [name for name in names if name not in known]
    if not unknown:
        return {}
    problem = ValidationError(
        _("There is no instance or route named %(names)s in this organization."),
        code="unknown_model",
        params={"names": ", ".join(unknown)},
    )
    return {"models_allowed": problem}


def _checked_origins(kind: str, given: Iterable[str]) -> list[str]:
    """As browsers write them. Raises ValidationError."""
    wanted = [text for text in given if text.strip()]
    found = [origins.normal(text) for text in wanted]
    wrong = [text for text, origin in zip(wanted, found, strict=True) if origin is None]
    if wrong:
        problem = ValidationError(
            _("Write each website like https://app.example, without a path: %(wrong)s"),
            code="origin",
            params={"wrong": ", ".join(wrong)},
        )
    elif found and kind != ApiKey.Kind.API:
        problem = ValidationError(_("Only API keys can be used in a browser."), code="origin")
    elif len(found) > MOST_ORIGINS:
        most = {"most": MOST_ORIGINS}
        problem = ValidationError(_("At most %(most)d websites."), code="origin", params=most)
    else:
        return sorted({origin for origin in found if origin})
    raise ValidationError({"origins": problem})
