"""The catalogue's verbs, asked alike by pages, REST and the form for a new instance.

Here numbers and codes of the pure modules become sentences.
"""

from pathlib import Path

import msgspec
from django.template.defaultfilters import filesizeformat
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import Organization
from inference import demo, folders, hub
from inference.fit import Fit, Hardware, Verdict, estimate
from inference.hub import HubError, ModelNotFound
from inference.model_card import ModelCard, Refusal
from inference.models import HubCredential, Node
from inference.models.instance import Instance
from portal.lib.crypto import UnreadableSecret

Source = Instance.Source


class FolderNotFound(HubError):
    """No such folder, no such file in it, or its files have changed since this revision."""

    def __init__(self, model_id: str, revision: str = "", model_file: str = "") -> None:
        super().__init__(model_id, revision, model_file)
        self.model_id, self.revision, self.model_file = model_id, revision, model_file

    @property
    def sentence(self) -> str:
        if self.model_file:
            return hub.no_file_sentence(self.model_id, self.model_file)
        if self.revision:
            return _("The files of %(model)s on this machine have changed; choose it anew.") % {
                "model": self.model_id
            }
        return _("There is no model %(model)s on this machine.") % {"model": self.model_id}


class NodeFit(msgspec.Struct, frozen=True):
    """Whether a model fits one machine, in numbers and in words."""

    node: str
    hardware: Hardware
    fit: Fit

    @property
    def title(self) -> str:
        return _VERDICTS[self.fit.verdict]()

    @property
    def tone(self) -> str:
        """The colour of its label, among those of the status component."""
        return _TONES[self.fit.verdict]

    @property
    def sentences(self) -> list[str]:
        return fit_sentences(self.fit)


def on_hand(query: str = "") -> list[ModelCard]:
    """Models that need no network: the bundled one, then the operator's folders."""
    cards = [folders.bundled_card()]
    cards += [card for name in folders.folders() if (card := folders.local_card(name))]
    words = query.lower().split()
    return [card for card in cards if all(word in card.model_id.lower() for word in words)]


def search(organization: Organization, query: str) -> list[ModelCard]:
    """Models of the hub that this organization may see. Raises hub.HubError."""
    return hub.search(query, hub_token(organization))


def describe(
    organization: Organization,
    source: str,
    model_id: str,
    revision: str = "",
    model_file: str = "",
) -> ModelCard:
    """A model as it is at this revision; empty: as it is now. Of several GGUF files in it, the one
    that `model_file` names. Raises hub.HubError."""
    if source == Source.HUB:
        return hub.describe(model_id, revision, hub_token(organization), model_file)
    card = _card_on_hand(source, model_id, model_file)
    if card is None:
        there = model_file and _card_on_hand(source, model_id) is not None
        raise FolderNotFound(model_id, model_file=model_file if there else "")
    if revision not in {"", card.revision}:
        raise FolderNotFound(model_id, revision)
    return card


def model_path(source: str, model_id: str) -> Path | None:
    """The folder of a bundled or local model; None for the hub's. Raises FolderNotFound."""
    if source == Source.HUB:
        return None
    folder = demo.MODEL_PATH if source == Source.BUNDLED else folders.folders().get(model_id)
    if folder is None or (source == Source.BUNDLED and model_id != demo.MODEL_ID):
        raise FolderNotFound(model_id)
    return folder


def hub_token(organization: Organization) -> str | None:
    """The organization's hub token, if it has one that can be read."""
    try:
        return HubCredential.token_of(organization)
    except UnreadableSecret:
        # SECRET_KEY has changed. Without a token gated models ask for one, which is the remedy.
        return None


def fits(card: ModelCard, context: int | None = None, dtype: str = "auto") -> list[NodeFit]:
    """Whether it fits on each machine that has reported, the best answer first."""
    return fits_on(machines(), card, context, dtype)


def machines() -> list[tuple[str, Hardware]]:
    """Every machine that has reported, by name."""
    return [(node.name, hardware_of(node)) for node in Node.objects.order_by("name")]


def fits_on(
    machines: list[tuple[str, Hardware]],
    card: ModelCard,
    context: int | None = None,
    dtype: str = "auto",
) -> list[NodeFit]:
    """As `fits`, for machines that were asked for already."""
    answers = [
        NodeFit(name, hardware, estimate(card, hardware, context, dtype))
        for name, hardware in machines
    ]
    return sorted(answers, key=lambda answer: _ORDER.index(answer.fit.verdict))


def hardware_of(node: Node) -> Hardware:
    return Hardware(
        memory_bytes=node.memory_bytes,
        gpu_memory_bytes=tuple(gpu["memory_bytes"] for gpu in node.gpus),
    )


def obstacle(card: ModelCard, answers: list[NodeFit]) -> str:
    """Why this model cannot be deployed here; empty when it can."""
    if card.refusal:
        return refusal_sentence(card)
    if answers and all(answer.fit.verdict is Verdict.TOO_BIG for answer in answers):
        largest = max(answers, key=lambda answer: answer.fit.available_bytes).fit
        return _(
            "It does not fit on any machine here: it needs %(needed)s, "
            "and the largest has %(available)s."
        ) % {
            "needed": filesizeformat(_least_bytes(largest)),
            "available": filesizeformat(largest.available_bytes),
        }
    return ""


def refusal_sentence(card: ModelCard) -> str:
    """Why a model cannot run here, whatever the hardware; empty when it can."""
    if card.refusal is Refusal.NEEDS_TOKEN:
        return hub.gated_sentence(card.model_id, has_token=False)
    if card.refusal is Refusal.NOT_ACCEPTED:
        return hub.gated_sentence(card.model_id, has_token=True)
    return _REFUSALS[card.refusal]() if card.refusal else ""


def fit_sentences(fit: Fit) -> list[str]:
    """The answer in the user's terms, one sentence per fact."""
    if fit.verdict is Verdict.UNKNOWN:
        return [_("The model does not say how large it is.")]
    sentences = [_need_sentence(fit)]
    if fit.verdict is Verdict.SHORTER and fit.max_context and fit.context:
        sentences.append(
            _(
                "There is room for a context of %(room)s tokens; the model could use %(full)s. "
                "Set a shorter context when you deploy it."
            )
            % {"room": grouped(fit.max_context), "full": grouped(fit.context)}
        )
    if fit.verdict is Verdict.FITS and fit.sequences and fit.context:
        sentences.append(
            ngettext(
                "%(count)s request with the whole context of %(context)s tokens at a time, "
                "and more shorter ones.",
                "%(count)s requests with the whole context of %(context)s tokens at a time, "
                "and more shorter ones.",
                fit.sequences,
            )
            % {"count": grouped(fit.sequences), "context": grouped(fit.context)}
        )
    # The second of the usual lengths is that of a long chat.
    if len(fit.users) > 1 and fit.users[1].count:
        sentences.append(
            ngettext(
                "Room for %(count)s user at a time with %(context)s tokens each.",
                "Room for %(count)s users at a time with %(context)s tokens each.",
                fit.users[1].count,
            )
            % {"count": grouped(fit.users[1].count), "context": grouped(fit.users[1].context)}
        )
    return sentences


def grouped(number: int) -> str:
    """131072 → 131,072, as the reader's language groups digits."""
    return number_format(number, force_grouping=True)


def _need_sentence(fit: Fit) -> str:
    sizes = {
        "needed": filesizeformat(_least_bytes(fit)),
        "available": filesizeformat(fit.available_bytes),
    }
    if not fit.gpu_count:
        return _("Needs %(needed)s of memory; the machine has %(available)s, without a GPU.") % (
            sizes
        )
    return ngettext(
        "Needs %(needed)s on %(count)s GPU, which has %(available)s for it.",
        "Needs %(needed)s on %(count)s GPUs together, which have %(available)s for it.",
        fit.gpu_count,
    ) % (sizes | {"count": grouped(fit.gpu_count)})


def _least_bytes(fit: Fit) -> int:
    """What it takes to run at all: with the longest context there is room for, if any."""
    if fit.verdict is Verdict.FITS or not fit.gpu_count:
        return fit.needed_bytes
    return (
        fit.weight_bytes
        + fit.overhead_bytes
        + (fit.max_context or 0) * (fit.kv_bytes_per_token or 0)
    )


def _card_on_hand(source: str, model_id: str, model_file: str = "") -> ModelCard | None:
    if source == Source.BUNDLED:
        ours = model_id == demo.MODEL_ID and not model_file
        return folders.bundled_card() if ours else None
    return folders.local_card(model_id, model_file) if source == Source.LOCAL else None


_ORDER = [Verdict.FITS, Verdict.SHORTER, Verdict.UNKNOWN, Verdict.TOO_BIG]

_TONES = {
    Verdict.FITS: "ok",
    Verdict.SHORTER: "info",
    Verdict.UNKNOWN: "idle",
    Verdict.TOO_BIG: "warn",
}
# Functions, so that each request gets its own language.
_VERDICTS = {
    Verdict.FITS: lambda: _("Fits"),
    Verdict.SHORTER: lambda: _("Fits with a shorter context"),
    Verdict.UNKNOWN: lambda: _("Not known"),
    Verdict.TOO_BIG: lambda: _("Does not fit"),
}
_REFUSALS = {
    Refusal.NO_CONFIG: lambda: _(
        "It has no config.json that names an architecture, so no engine here can load it."
    ),
    Refusal.NO_WEIGHTS: lambda: _("It has no weights in safetensors format, and no GGUF file."),
    Refusal.PICKLE_ONLY: lambda: _(
        "Its weights are pickles (.bin, .pt), which can run code when they are read. "
        "Only safetensors and GGUF are loaded here; look for a converted copy of the model."
    ),
    Refusal.CHOOSE_FILE: lambda: _(
        "Its weights come as GGUF files, each an edition of its own. Choose one of them."
    ),
    Refusal.NEEDS_CODE: lambda: _(
        "It brings Python code of its own (auto_map), which is never run here."
    ),
    Refusal.BAD_WEIGHTS: lambda: _("A weights file is damaged, or is not what its name says."),
}

__all__ = [
    "FolderNotFound",
    "HubError",
    "ModelNotFound",
    "NodeFit",
    "describe",
    "fits",
    "fits_on",
    "hub_token",
    "machines",
    "model_path",
    "obstacle",
    "on_hand",
    "refusal_sentence",
    "search",
]
