"""The form for a new instance: a settled model, a name, and what its engine lets one tune."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.text import slugify
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from inference.engines import ENGINES
from inference.engines.base import BadSetting, Group, Setting, SettingValue, Variant
from inference.engines.vllm_parsers import parsers_for
from inference.engines.vllm_settings import PRESETS
from inference.fit import GIB, Hardware
from inference.model_card import EMBEDDING, ModelCard
from inference.models import Instance
from inference.models.instance import served_model_name

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

Machines = list[tuple[str, Hardware]]

ENGINE = "vllm"
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
}
DOUBLE_CLICK = 60.0  # seconds in which the same wish again is not a second one
TEXT = {"class": "input w-full"}


def suggested_name(model_id: str) -> str:
    """`Qwen/Qwen3-8B` → `qwen3-8b`."""
    return slugify(model_id.rstrip("/").rsplit("/", 1)[-1].replace(".", "-"))[:63].strip("-_")


def name_field(help_text: "_StrOrPromise") -> forms.CharField:
    """For what stands among the names that programs may say as `model`."""
    return forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[served_model_name],
        widget=forms.TextInput(
            attrs={"class": "input", "autocomplete": "off", "spellcheck": "false"}
        ),
        help_text=help_text,
    )


class InstanceForm(forms.Form):
    """Fields of the engine are made from its typed settings, so that a new one needs no form."""

    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[served_model_name],
        help_text=_("Programs say this name as “model”."),
        widget=forms.TextInput(attrs=TEXT | {"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(
        self, card: ModelCard, machines: Machines, asked: QueryDict, *, bound: bool
    ) -> None:
        """`asked` is what was posted, or the address's query, which may suggest a context."""
        suggested = {"name": suggested_name(card.model_id)}
        if context := asked.get("max_model_len"):
            suggested[PREFIX + "max_model_len"] = context
        if card.pipeline_tag in EMBEDDING:
            suggested[PREFIX + "runner"] = "pooling"
        elif card.chat_template:
            suggested |= _suggested_parsers(card)
        super().__init__(asked if bound else None, initial=suggested)
        self.card, self.asked, self.places = card, asked, machines
        self._add_hardware(max((len(m.gpu_memory_bytes) for _name, m in machines), default=0))

    def _add_hardware(self, gpus: int) -> None:
        variant: Variant = "cuda" if gpus else "cpu"
        if gpus:
            self.fields["gpu_count"] = forms.TypedChoiceField(
                label=_("GPUs"),
                choices=[(n, str(n)) for n in (1, 2, 4, 8) if n <= gpus],
                coerce=int,
                widget=forms.Select(attrs={"class": "select w-full"}),
            )
        for setting in ENGINES[ENGINE].settings:
            if variant in setting.variants:
                self.fields[PREFIX + setting.name] = _field(setting, self.card)

    def basic_fields(self) -> list[forms.BoundField]:
        """What most people may want to choose."""
        return self._fields_of(Group.BASIC)

    def further_groups(self) -> "Iterator[tuple[_StrOrPromise, list[forms.BoundField], bool]]":
        """What few people need to: heading, fields, whether one of them wants attention."""
        for group, title in GROUPS.items():
            if fields := self._fields_of(group):
                yield title, fields, any(field.errors for field in fields)

    def _fields_of(self, group: Group) -> list[forms.BoundField]:
        names = [PREFIX + s.name for s in ENGINES[ENGINE].settings if s.group is group]
        return [self[name] for name in names if name in self.fields]

    def context_length(self) -> int | None:
        """Tokens, as chosen so far; None: the model's own."""
        return self._number("max_model_len")

    def dtype(self) -> str:
        return self.asked.get(PREFIX + "dtype", "auto")

    def machines(self) -> Machines:
        """The machines, with the memory that is set aside for conversations as chosen so far."""
        kept = self._number("kv_cache_gib") or self._preset().get("kv_cache_gib")
        if kept is None:
            return self.places
        return [
            (name, msgspec.structs.replace(machine, kv_space_bytes=int(kept) * GIB))
            for name, machine in self.places
        ]

    def _preset(self) -> Mapping[str, SettingValue]:
        """What the preset chosen so far would fill in."""
        return PRESETS.get(self.asked.get(PREFIX + "preset", ""), {})

    def _number(self, setting: str) -> int | None:
        """What is typed, where it makes sense: the form may not be sent yet."""
        typed = self.asked.get(PREFIX + setting) or self.initial.get(PREFIX + setting) or ""
        return int(typed) if typed.isdecimal() and 0 < int(typed) < 2**31 else None

    def clean(self) -> dict[str, Any]:
        """What no field can tell alone: whether the settings go together."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.settings = ENGINES[ENGINE].check(
                    self._chosen(), gpu_count=cleaned.get("gpu_count") or 0
                )
            except BadSetting as problem:
                raise ValidationError(str(problem)) from problem
        return cleaned

    def _chosen(self) -> dict[str, Any]:
        """What was set; what was left empty or automatic is the preset's or the engine's choice."""
        chosen = _chosen(self.cleaned_data)
        if self.card.quantization and "preset" in chosen:
            chosen.setdefault("quantization", "auto")  # no preset quantizes it a second time
        return chosen

    def take_errors(self, error: ValidationError) -> None:
        """Show what the model refused beside the field that it is about."""
        add_errors(self, error)


def _chosen(cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are neither empty nor automatic."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in cleaned.items()
        if name.startswith(PREFIX) and value not in {None, "", "auto", "none"}
    }


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
            widget=forms.Select(attrs={"class": "select w-full"}),
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


class ConfigurationForm(forms.Form):
    """What the engine of an instance is started with. A change of it makes a new revision."""

    def __init__(self, instance: Instance, data: QueryDict | None, gpus: int) -> None:
        """`gpus`: as many as the largest machine has."""
        kept = {PREFIX + name: value for name, value in instance.settings.items()}
        super().__init__(data, initial=kept | {"gpu_count": instance.gpu_count})
        self.instance = instance
        if instance.gpu_count:
            counts = sorted({1, 2, 4, 8, instance.gpu_count} & set(range(1, max(gpus, 1) + 1)))
            self.fields["gpu_count"] = forms.TypedChoiceField(
                label=_("GPUs"),
                choices=[(n, str(n)) for n in counts or [instance.gpu_count]],
                coerce=int,
                widget=forms.Select(attrs={"class": "select w-full"}),
            )
        card = ModelCard(source=instance.model_source, model_id=instance.model_id)
        variant: Variant = "cuda" if instance.gpu_count else "cpu"
        for setting in ENGINES[instance.engine].settings:
            if variant in setting.variants:
                self.fields[PREFIX + setting.name] = _field(setting, card)
        self.fields["at_once"] = forms.BooleanField(
            label=_("Replace what runs at once"),
            required=False,
            widget=forms.CheckboxInput(attrs={"class": "input"}),
            help_text=_(
                "Needs no room for both, but nothing answers until the new one is ready. "
                "Otherwise the old one answers until then."
            ),
        )

    def change(self, by: User) -> bool:
        """Want it so; False, with errors in the form, where that is refused."""
        count = self.cleaned_data.get("gpu_count")
        settings = _chosen(self.cleaned_data)
        try:
            self.instance.change(
                by, settings=settings, gpu_count=count, at_once=self.cleaned_data["at_once"]
            )
        except ValidationError as error:
            add_errors(self, error)
        return not self.errors


def add_errors(form: forms.Form, error: ValidationError) -> None:
    """Show what a verb refused beside the field that it is about."""
    by_field = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
    for name, messages in by_field.items():
        for message in messages:
            form.add_error(name if name in form.fields else None, message)


def _suggested_parsers(card: ModelCard) -> dict[str, str]:
    """How the model's family writes tool calls and thoughts, where we know."""
    known = parsers_for(card.model_type, card.model_id)
    named = {"tool_call_parser": known.tools, "reasoning_parser": known.reasoning}
    return {PREFIX + setting: parser for setting, parser in named.items() if parser}


def request_instance(form: InstanceForm, organization: Organization, by: User) -> Instance | None:
    """Ask for what the form says; None, with errors in the form, where that is refused."""
    card, wanted = form.card, form.cleaned_data
    facts = {
        "name": wanted["name"],
        "model_source": card.source,
        "model_id": card.model_id,
        "model_revision": card.revision,
        "engine": ENGINE,
        "settings": form.settings,
        "gpu_count": wanted.get("gpu_count") or 0,
    }
    try:
        return Instance.request(organization, by, **facts)
    except ValidationError as error:
        if asked_already := _asked_just_now(organization, by, facts):
            return asked_already
        form.take_errors(error)
        return None


def _asked_just_now(organization: Organization, by: User, facts: dict[str, Any]) -> Instance | None:
    """The same by the same person a moment ago: the button was pressed twice."""
    since = timezone.now() - timedelta(seconds=DOUBLE_CLICK)
    mine = Instance.objects.for_organization(organization).alive()
    return mine.filter(created_by=by, created_at__gte=since, **facts).first()
