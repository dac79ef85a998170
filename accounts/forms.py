"""What people may enter about who they are with. The rules themselves are in the verbs."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.core import signing
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import ApiKey, Membership, Organization, Project
from accounts.models.membership import ROLE_LABELS
from accounts.models.organization import NAME_LENGTH
from accounts.roles import Permission
from portal.lib.ids import uuid7

FORM_LIFETIME = timedelta(days=1)
EXPIRIES = [
    ("", _("Never")),
    ("7", _("In 7 days")),
    ("30", _("In 30 days")),
    ("90", _("In 90 days")),
    ("365", _("In a year")),
]
OVERLAPS = [
    ("0", _("At once")),
    (str(60 * 60), _("In an hour")),
    (str(24 * 60 * 60), _("In a day")),
    (str(7 * 24 * 60 * 60), _("In a week")),
]


class StyledForm(forms.Form):
    """Gives inputs the classes of the design and ties their errors to them for screen readers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            widget = field.widget
            if isinstance(widget, forms.Select):
                widget.attrs.setdefault("class", "select w-full")
            elif isinstance(widget, forms.TextInput):
                widget.attrs.setdefault("class", "input")


class LinesField(forms.CharField):
    """Several values, one in each line."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        """The lines that say something."""
        lines = (super().to_python(value) or "").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def prepare_value(self, value: Any) -> Any:
        """What was typed, or what is kept."""
        return "\n".join(value) if isinstance(value, list) else value


class OriginsForm(StyledForm):
    """The websites whose programs may call with a key."""

    origins = LinesField(
        label=_("Websites"),
        required=False,
        max_length=6_000,
        help_text=_(
            "One in each line, like https://app.example; * is any. Only programs of these websites "
            "may call with the key from a browser. A key in a website is no secret: give it limits."
        ),
        widget=forms.Textarea(
            attrs={"class": "textarea font-mono text-xs", "rows": 2, "spellcheck": "false"}
        ),
    )


class KeyForm(OriginsForm):
    """A new key. `asked` is the id that it will have, so that a double click makes one key."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("Where it is used, for example “laptop”.")
    )
    kind = forms.ChoiceField(
        label=_("Kind"),
        choices=[
            (ApiKey.Kind.API.value, _("API key: calls your models")),
            (ApiKey.Kind.MANAGEMENT.value, _("Management key: calls the REST API in your name")),
        ],
        initial=ApiKey.Kind.API.value,
    )
    expires = forms.ChoiceField(label=_("Expires"), choices=EXPIRIES, required=False)
    project = forms.ModelChoiceField(
        label=_("Project"),
        queryset=Project.objects.none(),
        required=False,
        help_text=_("What its usage is counted for."),
    )
    models_allowed = forms.MultipleChoiceField(
        label=_("Models"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("With none chosen, the key calls every model, later ones too."),
    )
    asked = forms.CharField(widget=forms.HiddenInput)
    field_order = ("name", "kind", "project", "expires", "models_allowed", "origins")

    def __init__(self, *args: Any, membership: Membership, **kwargs: Any) -> None:
        kwargs.setdefault("initial", {}).setdefault("asked", signing.dumps(str(uuid7())))
        super().__init__(*args, **kwargs)
        names = sorted(membership.organization.model_names())
        self.fields["models_allowed"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        projects = Project.objects.for_organization(membership.organization).open()
        self.fields["project"].queryset = projects  # type: ignore[attr-defined]
        if not projects:
            del self.fields["project"]
        if not membership.allows(Permission.MANAGE_KEYS):
            del self.fields["kind"]

    def clean_asked(self) -> UUID:
        try:
            return UUID(signing.loads(self.cleaned_data["asked"], max_age=FORM_LIFETIME))
        except signing.BadSignature as error:
            raise forms.ValidationError(
                _("This page was open for too long. Reload it and try again.")
            ) from error

    def wanted(self) -> dict[str, Any]:
        """What `ApiKey.issue` is to be told."""
        data = self.cleaned_data
        return {
            "name": data["name"],
            "kind": data.get("kind", ApiKey.Kind.API),
            "models_allowed": data["models_allowed"],
            "expires_at": self._expires_at(),
            "origins": data["origins"],
            "project": data.get("project"),
            "id": data["asked"],
        }

    def _expires_at(self) -> datetime | None:
        days = self.cleaned_data["expires"]
        return timezone.now() + timedelta(days=int(days)) if days else None


class RotateForm(StyledForm):
    """When the old key is to end."""

    overlap = forms.TypedChoiceField(
        label=_("The old key ends"),
        choices=OVERLAPS,
        coerce=lambda seconds: timedelta(seconds=int(seconds)),
        initial=OVERLAPS[2][0],
        help_text=_("Until then both keys work, so that nothing stops while you change over."),
    )


class InvitationForm(StyledForm):
    """Whom to invite, as what."""

    email = forms.EmailField(label=_("E-mail address"), max_length=254)
    role = forms.ChoiceField(label=_("Role"))

    def __init__(self, *args: Any, membership: Membership, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = role_choices(membership)  # type: ignore[attr-defined]
        self.fields["role"].initial = "member"


class OrganizationForm(StyledForm):
    """An organization's name, in any script."""

    name = forms.CharField(label=_("Name"), max_length=NAME_LENGTH)

    @classmethod
    def of(cls, organization: Organization) -> "OrganizationForm":
        return cls(initial={"name": organization.name})


class ProjectForm(StyledForm):
    """A new project."""

    name = forms.CharField(label=_("Name"), max_length=80)


def role_choices(membership: Membership) -> list[tuple[str, Any]]:
    """The roles that this member may give, strongest first."""
    grantable = set(membership.grantable())
    return [(value, label) for value, label in ROLE_LABELS if value in grantable]
