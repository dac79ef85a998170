from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7


class ProjectQuerySet(TenantQuerySet):
    def open(self) -> "ProjectQuerySet":
        """Those that new keys may be made for."""
        return self.filter(archived_at=None)


class Project(models.Model):
    """What keys are for: usage and budgets are told apart by it. It is archived, never deleted, so
    that old usage keeps its name."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="projects"
    )
    name = models.CharField(_("name"), max_length=80)
    created_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=Q(archived_at=None),
                name="one_open_project_of_a_name",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def begin(cls, organization: Organization, by: User, name: str) -> "Project":
        """Make one. Raises ValidationError."""
        project = cls(organization=organization, created_by=by, name=name.strip())
        project.clean_fields()
        try:
            with transaction.atomic():
                project.save(force_insert=True)
        except IntegrityError as error:
            message = _("There is a project of this name already.")
            raise ValidationError({"name": ValidationError(message, code="taken")}) from error
        return project

    def archive(self) -> None:
        """No new keys for it. Its keys go on, and so does what is counted for it."""
        Project.objects.filter(id=self.id, archived_at=None).update(archived_at=timezone.now())
        self.refresh_from_db(fields=["archived_at"])
