from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.tenancy import TenantQuerySet
from inference.engines import ENGINES
from inference.models.instance import Instance
from portal.lib.ids import uuid7


class InstanceRevision(models.Model):
    """One version of what an instance should run. It never changes; going back to it is a new one.

    Whether it could start is written beside it by the reconciler.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    model_source = models.CharField(max_length=16, choices=Instance.Source)
    model_id = models.CharField(max_length=512)
    model_revision = models.CharField(max_length=64)
    model_file = models.CharField(max_length=255, blank=True)
    draft_source = models.CharField(max_length=16, choices=Instance.Source, blank=True, default="")
    draft_id = models.CharField(max_length=512, blank=True, default="")
    draft_revision = models.CharField(max_length=64, blank=True, default="")
    engine = models.CharField(max_length=32)
    settings = models.JSONField(default=dict, blank=True)
    gpu_count = models.PositiveSmallIntegerField(default=0)
    restores = models.PositiveIntegerField(null=True)  # the number that it went back to
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    first_ready_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    failed_reason = models.CharField(max_length=32, blank=True)
    failed_message = models.TextField(blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["instance", "number"], name="one_revision_per_number"),
        ]

    def __str__(self) -> str:
        return f"{self.instance} · revision {self.number}"

    def differences(self, former: "InstanceRevision") -> list[tuple[str, str, str]]:
        """In words: what differs, how it was in `former`, how it is in this one."""
        before, after = former._in_words(), self._in_words()
        return [
            (label, before.get(label, _("not set")), after.get(label, _("not set")))
            for label in {**before, **after}
            if before.get(label) != after.get(label)
        ]

    def _in_words(self) -> dict[str, str]:
        """By the name that people know it by. A short hash tells two revisions apart as well."""
        words = {
            _("Model"): self.model_id,
            _("Model revision"): self.model_revision[:12],
            _("File"): self.model_file,
            _("Draft model"): self.draft_id,
            _("Draft model's revision"): self.draft_revision[:12],
            _("Engine"): ENGINES[self.engine].title,
            _("GPUs"): str(self.gpu_count),
        }
        for setting in ENGINES[self.engine].settings:
            chosen = self.settings.get(setting.name, setting.default)
            if chosen is not None:
                words[_(setting.label)] = _value_in_words(chosen)
        return {label: value for label, value in words.items() if value}


def _value_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return _("on") if value else _("off")
    return str(value)
