from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance, served_model_name
from inference.models.provider import Provider
from portal.lib.ids import uuid7

MOST_TARGETS = 16


@dataclass(frozen=True, slots=True)
class Way:
    """One target that a route should have: an instance, or a provider's model."""

    instance: Instance | None = None
    provider: Provider | None = None
    provider_model: str = ""
    tier: int = 0
    weight: int = 1


class Route(models.Model):
    """A name for `model=` that leads to instances and providers: an alias, a fallback chain, or
    traffic shared by weight. No instance or adapter of the organization has the same name."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="routes")
    name = models.CharField(gettext_lazy("name"), max_length=63, validators=[served_model_name])
    data_may_leave = models.BooleanField(
        gettext_lazy("may fall back to providers"),
        default=False,
        help_text=gettext_lazy(
            "When your own instances fail, prompts may go to a provider that stands after them."
        ),
    )
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                name="one_route_per_name",
                violation_error_message=gettext_lazy("A route with this name exists already."),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    @transaction.atomic
    def make(
        cls,
        organization: Organization,
        by: User,
        *,
        name: str,
        ways: Sequence[Way],
        data_may_leave: bool = False,
    ) -> "Route":
        """Make a route. Raises ValidationError, its messages by field."""
        Organization.objects.lock(organization.id)  # an instance may be about to take the name
        route = cls(
            organization=organization, name=name, data_may_leave=data_may_leave, created_by=by
        )
        route._check()
        route.save()
        route._lead(ways)
        return route

    @transaction.atomic
    def change(
        self, *, ways: Sequence[Way] | None = None, data_may_leave: bool | None = None
    ) -> None:
        """Put these targets in the place of the present ones; None stays as it is.

        Raises ValidationError.
        """
        Route.objects.select_for_update().get(id=self.id)  # two at a time would add up
        if data_may_leave is not None:
            self.data_may_leave = data_may_leave
        self.save(update_fields=["data_may_leave", "changed_at"])
        if ways is not None:
            self.targets.all().delete()
            self._lead(ways)

    def _check(self) -> None:
        self.clean_fields(exclude=["created_by"])
        if Route.objects.for_organization(self.organization).filter(name=self.name).exists():
            raise ValidationError({"name": _("A route with this name exists already.")})
        alive = Instance.objects.for_organization(self.organization).alive()
        if alive.filter(name=self.name).exists():
            raise ValidationError({"name": _("An instance has this name already.")})
        if self.organization.adapters.filter(name=self.name, removed_at=None).exists():
            raise ValidationError({"name": _("An adapter has this name already.")})

    def _lead(self, ways: Sequence[Way]) -> None:
        if not ways:
            raise ValidationError({"targets": _("A route needs a target.")})
        if len(ways) > MOST_TARGETS:
            message = _("A route leads to %(most)d targets at most.")
            raise ValidationError({"targets": message % {"most": MOST_TARGETS}})
        tiers = sorted({way.tier for way in ways})
        for way in ways:
            target = RouteTarget(
                route=self,
                tier=tiers.index(way.tier),
                weight=way.weight,
                instance=way.instance,
                provider=way.provider,
                provider_model=way.provider_model.strip(),
            )
            target.check_way(self.organization)
            target.save()


class RouteTarget(models.Model):
    """One way of a route."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="targets")
    tier = models.PositiveSmallIntegerField(gettext_lazy("order"), default=0)
    weight = models.PositiveSmallIntegerField(
        gettext_lazy("weight"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
    )
    instance = models.ForeignKey(
        Instance, on_delete=models.CASCADE, null=True, blank=True, related_name="route_targets"
    )
    provider = models.ForeignKey(
        Provider, on_delete=models.PROTECT, null=True, blank=True, related_name="route_targets"
    )
    provider_model = models.CharField(gettext_lazy("model there"), max_length=200, blank=True)

    class Meta:
        ordering: ClassVar = ["tier", "id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=(
                    Q(instance__isnull=False, provider=None, provider_model="")
                    | Q(instance=None, provider__isnull=False) & ~Q(provider_model="")
                ),
                name="target_is_an_instance_or_a_providers_model",
            ),
        ]

    def __str__(self) -> str:
        return str(self.instance or f"{self.provider}/{self.provider_model}")

    def check_way(self, organization: Organization) -> None:
        """Raises ValidationError, its messages under `targets`."""
        problem = ""
        if (self.instance is None) == (self.provider is None):
            problem = _("A target is an instance, or a provider with a model's name.")
        elif self.instance is not None and (
            self.instance.organization_id != organization.id or self.instance.deleted_at
        ):
            problem = _("There is no such instance.")
        elif self.provider is not None and self.provider.organization_id != organization.id:
            problem = _("There is no such provider.")
        elif self.provider is not None and not self.provider_model:
            problem = _("Name the model as the provider knows it.")
        elif not 1 <= self.weight <= 1000:
            problem = _("A weight is from 1 to 1000.")
        if problem:
            raise ValidationError({"targets": problem})
