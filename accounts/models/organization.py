from collections.abc import Iterable
from typing import Self
from uuid import UUID

from django.db import IntegrityError, models, transaction
from django.urls import reverse
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _

from accounts.models.user import User
from accounts.roles import Role
from portal.lib.ids import uuid7

NAME_LENGTH = 80


class OrganizationQuerySet(models.QuerySet["Organization"]):
    def of(self, user: User) -> Self:
        """The organizations that this person is a member of."""
        return self.filter(memberships__user=user)

    def lock(self, id: UUID) -> None:
        """Be the only one who changes who is in this organization, until the transaction ends.

        Rows that merely name the organization, such as usage, are written meanwhile.
        """
        self.select_for_update(no_key=True).get(id=id)


class Organization(models.Model):
    """A tenant. Every later object belongs to one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(_("name"), max_length=NAME_LENGTH)
    slug = models.SlugField(_("address"), max_length=48, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = OrganizationQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("overview", kwargs={"org": self.slug})

    @classmethod
    def free_slug(cls, name: str, taken: Iterable[str] | None = None) -> str:
        """An unused address made of the name: `acme`, else `acme-2`, `acme-3`, …"""
        base = slugify(name)[:40].strip("-") or "org"
        used = set(
            cls.objects.filter(slug__startswith=base).values_list("slug", flat=True)
            if taken is None
            else taken
        )
        if base not in used:
            return base
        number = 2
        while f"{base}-{number}" in used:
            number += 1
        return f"{base}-{number}"

    @classmethod
    def found(cls, name: str, owner: User) -> "Organization":
        """Make an organization with its first owner."""
        name = name.strip()[:NAME_LENGTH]
        while True:
            slug = cls.free_slug(name)
            try:
                with transaction.atomic():
                    organization = cls.objects.create(name=name, slug=slug)
                    organization.memberships.create(user=owner, role=Role.OWNER)
                return organization
            except IntegrityError:
                if not cls.objects.filter(slug=slug).exists():
                    raise
                # Somebody took this address a moment ago: look for another.

    def rename(self, name: str) -> None:
        """Give it another name. Its address stays, so that no link breaks."""
        self.name = name
        self.full_clean(validate_unique=False)
        self.save(update_fields=["name"])

    def model_names(self) -> set[str]:
        """What its members may write as `model=`: the names of its instances, of their adapters,
        and of its routes."""
        # All are the other end of a relation that the inference app declares.
        instances = self.instances.filter(deleted_at=None).values_list("name", flat=True)
        adapters = self.adapters.filter(removed_at=None).values_list("name", flat=True)
        return {*instances, *adapters, *self.routes.values_list("name", flat=True)}
