"""The forms for a new instance, a settled model with a name, and for another revision of one."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils import timezone
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from inference import drafts
from inference.engine_form import PREFIX, TEXT, EngineForm, add_errors
from inference.engines import ENGINES, loaders
from inference.engines.base import BadSetting, Setting, SettingValue
from inference.engines.vllm_parsers import parsers_for
from inference.engines.vllm_settings import PRESETS
from inference.fit import Wish
from inference.model_card import EMBEDDING, ModelCard
from inference.models import Instance
from inference.models.instance import served_model_name

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

DOUBLE_CLICK = 60.0  # seconds in which the same wish again is not a second one

__all__ = ["ConfigurationForm", "InstanceForm", "add_errors", "name_field", "request_instance"]


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


class InstanceForm(EngineForm):
    """For a model whose card is known."""

    name = forms.CharField(
        label=_("Name"),
        max_length=63,
        validators=[served_model_name],
        help_text=_("Programs say this name as “model”."),
        widget=forms.TextInput(attrs=TEXT | {"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, card: ModelCard, gpus: int, asked: QueryDict, *, bound: bool) -> None:
        """`gpus`: as many as one machine has. `asked` is what was posted, or the address's query,
        which may suggest some of it."""
        suggested = {"name": asked.get("name") or suggested_name(card.model_id)}
        if count := asked.get("gpu_count"):
            suggested["gpu_count"] = count
        if context := asked.get("max_model_len"):
            suggested[PREFIX + "max_model_len"] = context
        if card.pipeline_tag in EMBEDDING:
            suggested[PREFIX + "runner"] = "pooling"
        elif card.chat_template:
            suggested |= _suggested_parsers(card)
        engines = loaders(card.weights_format)
        super().__init__(
            asked if bound else None,
            asked=asked,
            initial=suggested,
            engines=engines,
            usual=engines[0],
            card=card,
            gpu_counts=[n for n in (1, 2, 4, 8) if n <= gpus],
        )

    def wish(self) -> Wish:
        """What an estimate needs, as chosen so far: the form may not be sent yet."""
        said = {name: self.asked.get(name) or self.initial.get(name) or "" for name in self.fields}
        if said.get("gpu_count") == "":
            said["gpu_count"] = "1"
        return wish_of(self.chosen.name, said)

    def refuse(self, obstacle: str) -> None:
        """Say why what is chosen cannot run; nothing where it can."""
        if obstacle:
            self.add_error(None, obstacle)

    def clean(self) -> dict[str, Any]:
        """What no field can tell alone: whether the settings go together."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.settings = self.chosen.check(
                    self.chosen_settings(), gpu_count=cleaned.get("gpu_count") or 0
                )
            except BadSetting as problem:
                raise ValidationError(str(problem)) from problem
        return cleaned

    def chosen_settings(self) -> dict[str, Any]:
        """What was set; what was left empty or automatic is the preset's or the engine's choice."""
        chosen = super().chosen_settings()
        if self.card.quantization and "preset" in chosen:
            chosen.setdefault("quantization", "auto")  # no preset quantizes it a second time
        return chosen


def wish_of(engine: str, said: Mapping[str, str]) -> Wish:
    """What an estimate needs of a form that may not be sent yet; nonsense counts as not said."""
    chosen: dict[str, SettingValue] = {}
    for setting in ENGINES[engine].settings:
        value = _typed(setting, said.get(PREFIX + setting.name, ""))
        if value not in {None, "auto", "none"}:
            chosen[setting.name] = value
    count = said.get("gpu_count", "")
    gpus = int(count) if count.isdecimal() and len(count) < 4 else 0
    return Wish.of({**PRESETS.get(str(chosen.get("preset")), {}), **chosen}, gpus)


def _typed(setting: Setting, text: str) -> SettingValue | None:
    """What was typed, where it makes sense."""
    try:
        match setting.kind:
            case "int":
                return setting.check(int(text))
            case "float":
                return setting.check(float(text))
            case "choice":
                return setting.check(text)
    except ValueError:  # BadSetting among them
        return None
    return text == "on"


class ConfigurationForm(EngineForm):
    """What the engine of an instance is started with. A change of it makes a new revision."""

    def __init__(
        self, instance: Instance, asked: QueryDict, gpus: int, *, bound: bool = False
    ) -> None:
        """`asked` is what was posted, or the address's query; `gpus`: as many as the largest
        machine has."""
        kept = {PREFIX + name: value for name, value in instance.settings.items()}
        kept |= {"gpu_count": instance.gpu_count}
        kept |= {"draft_source": instance.draft_source, "draft_id": instance.draft_id}
        usual = ENGINES[instance.engine]
        counts = sorted({1, 2, 4, 8, instance.gpu_count} & set(range(1, max(gpus, 1) + 1)))
        super().__init__(
            asked if bound else None,
            asked=asked,
            initial=kept,
            engines=loaders("gguf" if instance.model_file else "safetensors"),
            usual=usual,
            card=ModelCard(source=instance.model_source, model_id=instance.model_id),
            gpu_counts=(counts or [instance.gpu_count]) if instance.gpu_count else [],
        )
        self.instance = instance
        self.fields["at_once"] = forms.BooleanField(
            label=_("Replace what runs at once"),
            required=False,
            widget=forms.CheckboxInput(attrs={"class": "input"}),
            help_text=_(
                "Needs no room for both, but nothing answers until the new one is ready. "
                "Otherwise the old one answers until then."
            ),
        )

    def all_fields(self) -> list[forms.BoundField]:
        """All but the engine, in the order of the new instance's form."""
        groups = [self.basic_fields(), *(fields for _title, fields, _ in self.further_groups())]
        gpus = [self["gpu_count"]] if "gpu_count" in self.fields else []
        return [*gpus, *(field for fields in groups for field in fields), self["at_once"]]

    def change(self, by: User) -> bool:
        """Want it so; False, with errors in the form, where that is refused."""
        try:
            self.instance.change(
                by,
                settings=self.chosen_settings(),
                engine=self.chosen.name,
                gpu_count=self.cleaned_data.get("gpu_count"),
                at_once=self.cleaned_data["at_once"],
                **self._draft(),
            )
        except ValidationError as error:
            self.take_errors(error)
        return not self.errors

    def _draft(self) -> dict[str, str]:
        """As it was pinned, where it is the same. Raises ValidationError."""
        said = {name: self.cleaned_data.get(name, "") for name in ("draft_source", "draft_id")}
        instance = self.instance
        if all(getattr(instance, name) == value for name, value in said.items()):
            return {}
        draft = self.find_draft(instance.organization)
        drafts.check_for(instance, draft, self.chosen_settings())
        return drafts.fields(draft)


def _suggested_parsers(card: ModelCard) -> dict[str, str]:
    """How the model's family writes tool calls and thoughts, where we know."""
    known = parsers_for(card.model_type, card.model_id)
    named = {"tool_call_parser": known.tools, "reasoning_parser": known.reasoning}
    return {PREFIX + setting: parser for setting, parser in named.items() if parser}


def request_instance(form: InstanceForm, organization: Organization, by: User) -> Instance | None:
    """Ask for what the form says; None, with errors in the form, where that is refused."""
    if form.errors:
        return None
    card, wanted = form.card, form.cleaned_data
    facts = {
        "name": wanted["name"],
        "model_source": card.source,
        "model_id": card.model_id,
        "model_revision": card.revision,
        "model_file": card.model_file,
        "engine": form.chosen.name,
        "settings": form.settings,
        "gpu_count": wanted.get("gpu_count") or 0,
    }
    try:
        draft = form.find_draft(organization)
        drafts.check(card, draft, form.settings)
    except ValidationError as error:
        form.take_errors(error)
        return None
    facts |= drafts.fields(draft)
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
