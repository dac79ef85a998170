"""The form for a new instance: a settled model, a name, and what its engine lets one tune."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import slugify
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from inference.engines import ENGINES
from inference.engines.base import Setting, Variant
from inference.models import Instance
from inference.models.instance import served_model_name

PREFIX = "setting_"
TEXT = {"class": "input w-full"}


def suggested_name(model_id: str) -> str:
    """`Qwen/Qwen3-8B` → `qwen3-8b`."""
    return slugify(model_id.rstrip("/").rsplit("/", 1)[-1].replace(".", "-"))[:63].strip("-_")


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
        self, *args: Any, engine: str, variant: Variant, gpu_count: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.engine = engine
        if gpu_count:
            self.fields["gpu_count"] = forms.TypedChoiceField(
                label=_("GPUs"),
                choices=[(n, str(n)) for n in (1, 2, 4, 8) if n <= gpu_count],
                coerce=int,
                widget=forms.Select(attrs={"class": "select w-full"}),
            )
        for setting in ENGINES[engine].settings:
            if variant in setting.variants:
                self.fields[PREFIX + setting.name] = _field(setting)

    def settings_fields(self) -> Iterator[forms.BoundField]:
        """The engine's own."""
        return (self[name] for name in self.fields if name.startswith(PREFIX))

    def chosen_settings(self) -> dict[str, Any]:
        """What was set; what was left empty is the engine's own choice."""
        return {
            name.removeprefix(PREFIX): value
            for name, value in self.cleaned_data.items()
            if name.startswith(PREFIX) and value not in {None, ""}
        }

    def take_errors(self, error: ValidationError) -> None:
        """Show what the model refused beside the field that it is about."""
        for name, messages in error.message_dict.items():
            for message in messages:
                self.add_error(name if name in self.fields else None, message)


def _field(setting: Setting) -> forms.Field:
    label, help_text = gettext(setting.label), gettext(setting.help)
    common: dict[str, Any] = {"label": label, "help_text": help_text, "required": False}
    if setting.kind == "choice":
        return forms.ChoiceField(
            choices=[(choice, choice) for choice in setting.choices],
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


def request_instance(
    form: InstanceForm, *, organization: Any, by: Any, card: Any
) -> Instance | None:
    """Ask for what the form says; None, with errors in the form, where that is refused."""
    try:
        return Instance.request(
            organization,
            by,
            name=form.cleaned_data["name"],
            model_source=card.source,
            model_id=card.model_id,
            model_revision=card.revision,
            engine=form.engine,
            settings=form.chosen_settings(),
            gpu_count=form.cleaned_data.get("gpu_count") or 0,
        )
    except ValidationError as error:
        form.take_errors(error)
        return None
