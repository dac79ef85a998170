"""What is common to the forms that say how an engine is started: which one, on what, and how tuned.

Fields are made from the engine's typed settings, so that a new engine needs no form.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.formats import number_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from inference import drafts
from inference.engines.base import Engine, Group, Setting, Variant
from inference.hub import HubError
from inference.model_card import ModelCard
from inference.models import Instance

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

PREFIX = "setting_"
GROUPS = {
    Group.MEMORY: _("Memory and context"),
    Group.SPEED: _("Speed"),
    Group.TOOLS: _("Tools and reasoning"),
    Group.ADVANCED: _("Advanced"),
}
# What the settings' words mean to people; names of formats and parsers are shown as they are.
CHOICES = {
    "auto": _("automatic"),
    "none": _("none"),
    "latency": _("fast answers (latency)"),
    "throughput": _("many answers (throughput)"),
    "context": _("long conversations (context)"),
    "cost": _("small bill (cost)"),
    "generate": _("generate text"),
    "pooling": _("embeddings"),
    "balanced": _("balanced"),
    "interactivity": _("quick answers"),
    "draft_model": _("draft model"),
}
TEXT = {"class": "input w-full"}
SELECT = {"class": "select w-full"}
LONGEST_NAME = 512  # of a model


class EngineForm(forms.Form):
    """Another engine has other settings: until they were shown, nothing is done (`wants_to_see`).
    A page that shows them says so by a field `shown` with the engine's name."""

    def __init__(
        self,
        data: QueryDict | None,
        *,
        asked: QueryDict,
        initial: Mapping[str, Any],
        engines: Sequence[Engine],
        usual: Engine,
        card: ModelCard,
        gpu_counts: Sequence[int],
    ) -> None:
        """`asked` may name an engine, else it is the `usual` one. Without `gpu_counts`, what one
        may choose of, it runs without GPUs."""
        super().__init__(data, initial=dict(initial))
        self.asked, self.card, self.engines = asked, card, engines
        named = {engine.name: engine for engine in engines}
        self.chosen = named.get(asked.get("engine", ""), usual)
        self.fields["engine"] = forms.ChoiceField(
            choices=[(engine.name, engine.title) for engine in engines],
            required=False,
            label=_("Engine"),
        )
        if gpu_counts:
            self.fields["gpu_count"] = forms.TypedChoiceField(
                label=_("GPUs"),
                choices=[(n, str(n)) for n in gpu_counts],
                coerce=int,
                widget=forms.Select(attrs=SELECT),
            )
        variant: Variant = "cuda" if gpu_counts else "cpu"
        for setting in self.chosen.settings:
            if variant in setting.variants:
                self.fields[PREFIX + setting.name] = _field(setting, card)
        if self.chosen.drafting:
            self.fields |= _draft_fields(card)

    @property
    def wants_to_see(self) -> bool:
        """Whether an engine was chosen whose settings were not shown yet."""
        shown = self.asked.get("shown", self.chosen.name)
        return "show_engine" in self.asked or shown != self.chosen.name

    def basic_fields(self) -> list[forms.BoundField]:
        """What most people may want to choose."""
        return self._fields_of(Group.BASIC)

    def further_groups(self) -> "Iterator[tuple[_StrOrPromise, list[forms.BoundField], bool]]":
        """What few people need to: heading, fields, whether one of them wants attention."""
        for group, title in GROUPS.items():
            if fields := self._fields_of(group):
                yield title, fields, any(field.errors for field in fields)

    def _fields_of(self, group: Group) -> list[forms.BoundField]:
        names = [PREFIX + s.name for s in self.chosen.settings if s.group is group]
        if group is Group.SPEED:
            names += ["draft_source", "draft_id"]
        return [self[name] for name in names if name in self.fields]

    def chosen_settings(self) -> dict[str, Any]:
        """Those that are neither empty nor automatic."""
        return {
            name.removeprefix(PREFIX): value
            for name, value in self.cleaned_data.items()
            if name.startswith(PREFIX) and value not in {None, "", "auto", "none"}
        }

    def find_draft(self, organization: Organization) -> ModelCard | None:
        """The draft model that is named, if any. Raises ValidationError, its messages by field."""
        if not self.chosen.drafting:
            return None
        source = self.asked.get("draft_source", "")
        name = self.asked.get("draft_id", "").strip()[:LONGEST_NAME]
        try:
            return drafts.find(organization, source, name)
        except HubError as error:
            raise ValidationError({"draft_id": error.sentence}) from error

    def draft_so_far(self, organization: Organization) -> ModelCard | None:
        """The draft model, where one is named already and can be found."""
        try:
            return self.find_draft(organization)
        except ValidationError:
            return None

    def take_errors(self, error: ValidationError) -> None:
        """Show what the model refused beside the field that it is about."""
        add_errors(self, error)


def add_errors(form: forms.Form, error: ValidationError) -> None:
    """Show what a verb refused beside the field that it is about."""
    by_field = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
    for name, messages in by_field.items():
        for message in messages:
            form.add_error(name if name in form.fields else None, message)


def _field(setting: Setting, card: ModelCard) -> forms.Field:
    label, help_text = gettext(setting.label), gettext(setting.help)
    if setting.name == "max_model_len" and card.context_length:
        help_text = gettext(
            "Empty: the model's own, %(tokens)s tokens. Less needs less memory."
        ) % {"tokens": number_format(card.context_length, force_grouping=True)}
    common: dict[str, Any] = {"label": label, "help_text": help_text, "required": False}
    if setting.kind == "choice":
        return forms.ChoiceField(
            choices=[(choice, CHOICES.get(choice, choice)) for choice in setting.choices],
            initial=setting.default,
            widget=forms.Select(attrs=SELECT),
            **common,
        )
    if setting.kind == "bool":
        return forms.BooleanField(
            initial=setting.default, widget=forms.CheckboxInput(attrs={"class": "input"}), **common
        )
    widget = forms.NumberInput(attrs=TEXT | {"step": "1" if setting.kind == "int" else "0.01"})
    common |= {"initial": setting.default, "widget": widget}
    if setting.kind == "int":
        return forms.IntegerField(
            min_value=int(setting.minimum or 0), max_value=int(setting.maximum or 2**31), **common
        )
    return forms.FloatField(min_value=setting.minimum, max_value=setting.maximum, **common)


def _draft_fields(card: ModelCard) -> dict[str, forms.Field]:
    sources = [Instance.Source.HUB, Instance.Source.LOCAL]
    if card.source == Instance.Source.BUNDLED:  # it guesses for no other model
        sources.append(Instance.Source.BUNDLED)
    return {
        "draft_source": forms.ChoiceField(
            label=_("Draft model from"),
            required=False,
            choices=[("", _("none")), *((source.value, source.label) for source in sources)],
            widget=forms.Select(attrs=SELECT),
            help_text=_(
                "For eagle, eagle3 and draft model: where the second, small model is that guesses."
            ),
        ),
        "draft_id": forms.CharField(
            label=_("Draft model"),
            required=False,
            max_length=LONGEST_NAME,
            widget=forms.TextInput(attrs=TEXT | {"autocomplete": "off", "spellcheck": "false"}),
            help_text=_(
                "Its name on the hub, like Qwen/Qwen3-0.6B, or that of its folder on this machine. "
                "It is kept as it is now."
            ),
        ),
    }
