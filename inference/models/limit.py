from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import ApiKey, Membership, Organization
from accounts.roles import Permission
from accounts.tenancy import TenantQuerySet
from inference.gateway.tables import Meter, Window
from inference.models.instance import Instance
from portal.lib.ids import uuid7

Subject = Organization | Membership | ApiKey | Instance
MAX_AMOUNT = 10**15

# What may be limited: the meter, its window, and the words of pages.
KINDS: dict[tuple[Meter, Window], object] = {
    (Meter.REQUESTS, Window.MINUTE): gettext_lazy("Requests per minute"),
    (Meter.REQUESTS, Window.DAY): gettext_lazy("Requests per day"),
    (Meter.TOKENS, Window.MINUTE): gettext_lazy("Tokens per minute"),
    (Meter.TOKENS, Window.DAY): gettext_lazy("Tokens per day"),
    (Meter.CONCURRENT, Window.NOW): gettext_lazy("Requests at a time"),
    (Meter.SPEND, Window.MONTH): gettext_lazy("Spending per month"),
}
METERS = [meter for meter in Meter if meter is not Meter.CREDIT]  # that people set
Amounts = Mapping[tuple[Meter, Window], int | None]


class LimitQuerySet(TenantQuerySet):
    def of(self, subject: Subject) -> "LimitQuerySet":
        """The limits of this organization, member, key or instance itself."""
        scope, field = _scope(subject)
        if field is None:
            return self.filter(organization=subject, scope=scope)
        return self.filter(scope=scope, **{field: subject})

    def visible_to(self, membership: Membership) -> "LimitQuerySet":
        """What a member may know of: all but those of others and of others' keys."""
        theirs = self.for_organization(membership.organization)
        if not membership.allows(Permission.MANAGE_ORGANIZATION):
            theirs = theirs.exclude(~Q(membership=membership), scope=Limit.Scope.MEMBER)
        visible_keys = ApiKey.objects.visible_to(membership).values("id")
        return theirs.exclude(~Q(api_key__in=visible_keys), scope=Limit.Scope.KEY)


class Limit(models.Model):
    """How much one organization, member, key or instance may use in a window of time.

    Amounts are requests, tokens, or nano-units of the organization's currency. All limits that
    apply to a request hold together. The gateways enforce them (inference/gateway/limits.py).
    """

    class Scope(models.TextChoices):
        ORGANIZATION = "organization", gettext_lazy("Organization")
        MEMBER = "member", gettext_lazy("Member")
        KEY = "key", gettext_lazy("API key")
        INSTANCE = "instance", gettext_lazy("Instance")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="limits")
    scope = models.CharField(max_length=16, choices=Scope)
    membership = models.ForeignKey(
        Membership, on_delete=models.CASCADE, null=True, related_name="limits"
    )
    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, null=True, related_name="limits")
    instance = models.ForeignKey(
        Instance, on_delete=models.CASCADE, null=True, related_name="limits"
    )
    meter = models.CharField(max_length=16, choices=[(m.value, m.value) for m in METERS])
    window = models.CharField(max_length=16, choices=[(w.value, w.value) for w in Window])
    amount = models.BigIntegerField()

    objects = LimitQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["scope", "meter", "window"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="limit_amount_is_not_negative"),
            models.CheckConstraint(
                condition=(
                    Q(scope="organization", membership=None, api_key=None, instance=None)
                    | Q(scope="member", membership__isnull=False, api_key=None, instance=None)
                    | Q(scope="key", membership=None, api_key__isnull=False, instance=None)
                    | Q(scope="instance", membership=None, api_key=None, instance__isnull=False)
                ),
                name="limit_has_the_subject_of_its_scope",
            ),
            models.UniqueConstraint(
                fields=["organization", "scope", "membership", "api_key", "instance"]
                + ["meter", "window"],
                nulls_distinct=False,
                name="one_limit_per_subject_and_meter",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.meter} per {self.window}"

    @property
    def subject(self) -> UUID:
        """The id of whose limit it is."""
        found = self.membership_id or self.api_key_id or self.instance_id or self.organization_id
        return found

    @property
    def whose(self) -> Subject:
        """Whose limit it is."""
        return self.membership or self.api_key or self.instance or self.organization

    @classmethod
    def amounts_of(cls, subject: Subject) -> dict[tuple[Meter, Window], int]:
        """The limits of the subject itself."""
        rows = cls.objects.of(subject).values_list("meter", "window", "amount")
        return {(Meter(meter), Window(window)): amount for meter, window, amount in rows}

    @classmethod
    @transaction.atomic
    def set_for(cls, subject: Subject, amounts: Amounts, by: Membership) -> None:
        """Set the limits named in `amounts`; None takes one away; others stay as they are.

        Raises PermissionDenied, ValidationError.
        """
        if not may_set(subject, by):
            raise PermissionDenied
        scope, field = _scope(subject)
        organization = subject if isinstance(subject, Organization) else subject.organization
        given: dict[str, Any] = {"organization": organization, "scope": scope}
        if field is not None:
            given[field] = subject
        for kind, amount in amounts.items():
            if kind not in KINDS:
                problem = _("%(meter)s are not limited by that window.") % {"meter": kind[0]}
                raise ValidationError({"window": problem})
            if amount is None:
                cls.objects.filter(**given, meter=kind[0], window=kind[1]).delete()
                continue
            if not 0 <= amount <= MAX_AMOUNT:
                problem = _("A limit is from 0 to %(most)d.") % {"most": MAX_AMOUNT}
                raise ValidationError({"amount": problem})
            cls.objects.update_or_create(
                **given, meter=kind[0].value, window=kind[1].value, defaults={"amount": amount}
            )


def _scope(subject: Subject) -> tuple[str, str | None]:
    """The scope of a subject's limits, and the field that names it."""
    if isinstance(subject, Organization):
        return Limit.Scope.ORGANIZATION, None
    if isinstance(subject, Membership):
        return Limit.Scope.MEMBER, "membership"
    if isinstance(subject, ApiKey):
        return Limit.Scope.KEY, "api_key"
    return Limit.Scope.INSTANCE, "instance"


_NEEDED = {
    Limit.Scope.ORGANIZATION: Permission.MANAGE_ORGANIZATION,
    Limit.Scope.MEMBER: Permission.MANAGE_ORGANIZATION,
    Limit.Scope.KEY: Permission.MANAGE_KEYS,
    Limit.Scope.INSTANCE: Permission.MANAGE_INSTANCES,
}


def may_set(subject: Subject, member: Membership) -> bool:
    """Whether this member may set limits of the subject."""
    organization = subject if isinstance(subject, Organization) else subject.organization
    scope = Limit.Scope(_scope(subject)[0])
    return organization == member.organization and member.allows(_NEEDED[scope])


def of_scope(scope: str, id_: UUID, organization: Organization) -> Subject:
    """The subject of this kind and id in the organization. Raises ObjectDoesNotExist."""
    if scope == Limit.Scope.ORGANIZATION:
        if id_ != organization.id:
            raise Organization.DoesNotExist
        return organization
    if scope == Limit.Scope.MEMBER:
        return Membership.objects.for_organization(organization).get(id=id_)
    if scope == Limit.Scope.KEY:
        return ApiKey.objects.for_organization(organization).shown().get(id=id_)
    return Instance.objects.for_organization(organization).alive().get(id=id_)
