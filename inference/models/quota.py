from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Sum
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet
from inference.lifecycle import Desired

if TYPE_CHECKING:
    from inference.models.instance import Instance

HOLDING = (Desired.RUNNING, Desired.ASLEEP)  # one that sleeps may wake at any moment


class Quota(models.Model):
    """What an organization may hold at a time; None: as much as there is. An operator sets it."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, primary_key=True, related_name="quota"
    )
    instances = models.PositiveIntegerField(
        gettext_lazy("instances"),
        null=True,
        blank=True,
        help_text=gettext_lazy("How many it may have, whether they run or not."),
    )
    gpus = models.PositiveIntegerField(
        gettext_lazy("GPUs"),
        null=True,
        blank=True,
        help_text=gettext_lazy("How many its instances may hold together."),
    )
    approval_above_gpus = models.PositiveIntegerField(
        gettext_lazy("approval above"),
        null=True,
        blank=True,
        help_text=gettext_lazy("GPUs of one instance above which an operator decides first."),
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return f"quota of {self.organization}"


@dataclass(frozen=True)
class Held:
    """What an organization holds now."""

    instances: int
    gpus: int


def held(organization: Organization, besides: "Instance | None" = None) -> Held:
    """Its instances, and the GPUs of those that run or may wake."""
    alive = organization.instances.filter(deleted_at=None)
    if besides is not None:
        alive = alive.exclude(id=besides.id)
    holding = alive.filter(desired__in=HOLDING).exclude(approval="refused")
    gpus = holding.aggregate(all=Sum(F("gpu_count") * F("replica_count")))["all"]
    return Held(alive.count(), gpus or 0)


def check_quota(instance: "Instance") -> None:
    """Whether its organization may have this instance as it stands. Raises ValidationError.

    To be asked under the organization's lock: two at a time could both take what is left.
    """
    quota = Quota.objects.for_organization(instance.organization).first()
    if quota is None:
        return
    others = held(instance.organization, besides=instance)
    if quota.instances is not None and others.instances + 1 > quota.instances:
        message = _(
            "Your organization may have %(most)d instances and has %(held)d. Delete one, or ask "
            "the operator for a larger quota."
        )
        facts = {"most": quota.instances, "held": others.instances}
        raise ValidationError({"name": message % facts})
    gpus = instance.gpu_count * instance.replica_count
    if gpus and quota.gpus is not None and others.gpus + gpus > quota.gpus:
        message = _(
            "Your organization may hold %(most)d GPUs and %(held)d are taken; this instance needs "
            "%(gpus)d. Stop another, or ask the operator for a larger quota."
        )
        facts = {"most": quota.gpus, "held": others.gpus, "gpus": gpus}
        raise ValidationError({"gpu_count": message % facts})


def needs_approval(instance: "Instance") -> bool:
    """Whether an operator decides before it starts."""
    quota = Quota.objects.for_organization(instance.organization).first()
    above = quota.approval_above_gpus if quota else None
    return above is not None and instance.gpu_count * instance.replica_count > above
