from typing import ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from portal.lib.ids import uuid7


class ScheduleEntry(models.Model):
    """So many replicas at these hours; outside of all entries the instance's own count holds.

    `ends` before `starts` means the next day. Where entries overlap, the one made last holds.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="schedule")
    weekdays = models.PositiveSmallIntegerField(  # bits: Monday 1, Tuesday 2, … Sunday 64
        _("days"), default=127, validators=[MinValueValidator(1), MaxValueValidator(127)]
    )
    starts = models.TimeField(_("from"))
    ends = models.TimeField(_("until"))
    time_zone = models.CharField(_("time zone"), max_length=63, default="UTC")  # IANA
    replica_count = models.PositiveSmallIntegerField(  # 0: asleep
        _("replicas"), validators=[MaxValueValidator(16)]
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return f"{self.instance}: {self.replica_count} from {self.starts} to {self.ends}"

    def clean(self) -> None:
        """Raises ValidationError."""
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # or it reads like a path
            raise ValidationError({"time_zone": _("There is no such time zone.")}) from error
