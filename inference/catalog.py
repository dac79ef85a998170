"""The catalogue's verbs, asked alike by pages, REST and the form for a new instance.

Here codes of the pure modules become sentences. Whether a model fits is another question
(`inference.fit_answers`).
"""

from pathlib import Path

from django.utils.translation import gettext as _

from accounts.models import Organization
from inference import demo, folders, hub
from inference.hub import HubError, ModelNotFound
from inference.model_card import ModelCard, Refusal
from inference.models import HubCredential
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


def refusal_sentence(card: ModelCard) -> str:
    """Why a model cannot run here, whatever the hardware; empty when it can."""
    if card.refusal is Refusal.NEEDS_TOKEN:
        return hub.gated_sentence(card.model_id, has_token=False)
    if card.refusal is Refusal.NOT_ACCEPTED:
        return hub.gated_sentence(card.model_id, has_token=True)
    return _REFUSALS[card.refusal]() if card.refusal else ""


def _card_on_hand(source: str, model_id: str, model_file: str = "") -> ModelCard | None:
    if source == Source.BUNDLED:
        ours = model_id == demo.MODEL_ID and not model_file
        return folders.bundled_card() if ours else None
    return folders.local_card(model_id, model_file) if source == Source.LOCAL else None


# Functions, so that each request gets its own language.
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
    Refusal.OTHER_MODEL: lambda: _(
        "It names another model to load in its place (speculators_config), which is refused here. "
        "Deploy that model itself."
    ),
    Refusal.BAD_WEIGHTS: lambda: _("A weights file is damaged, or is not what its name says."),
}

__all__ = [
    "FolderNotFound",
    "HubError",
    "ModelNotFound",
    "describe",
    "hub_token",
    "model_path",
    "on_hand",
    "refusal_sentence",
    "search",
]
