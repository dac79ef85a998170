from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet


class Quota(models.Model):
    """What an organization may hold at a time; None: as much as there is. An operator sets it."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, primary_key=True, related_name="quota"
    )
    instances = models.PositiveIntegerField(_("instances"), null=True, blank=True)
    gpus = models.PositiveIntegerField(_("GPUs"), null=True, blank=True)
    approval_above_gpus = models.PositiveIntegerField(  # of one instance, all replicas together
        _("approval above"), null=True, blank=True
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return f"quota of {self.organization}"
