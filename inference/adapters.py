"""Adding a LoRA adapter, by page and by REST: its files are looked at first, and pinned."""

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from accounts.models import User
from inference import catalog, folders, hub
from inference.engines import lora
from inference.models import Adapter, Instance
from inference.models.adapter import lora_of


def add(
    instance: Instance,
    by: User | None,
    *,
    name: str,
    source: str,
    model_id: str,
    model_revision: str = "",
) -> Adapter:
    """Have it loaded as it is at this revision; empty: as it is now. Raises ValidationError, its
    messages by field, and HubError."""
    room = lora_of(instance)
    commit, files, config = _files(instance, source, model_id.strip(), model_revision.strip())
    try:
        # Without room the model says so, whatever the rank.
        facts = lora.adapter_from(config, files, room.max_rank if room else max(lora.RANKS))
    except lora.BadAdapter as problem:
        raise ValidationError({"model_id": _(problem.sentence) % problem.facts}) from problem
    return Adapter.add(
        instance,
        by,
        name=name,
        source=source,
        model_id=model_id.strip(),
        model_revision=commit,
        rank=facts.rank,
        base_model=facts.base_model,
    )


def on_hand() -> list[str]:
    """Adapters in the operator's folders, which need no network."""
    return list(folders.adapter_folders())


def _files(
    instance: Instance, source: str, model_id: str, revision: str
) -> tuple[str, set[str], dict[str, object]]:
    if source == Adapter.Source.HUB:
        return hub.adapter_files(model_id, revision, catalog.hub_token(instance.organization))
    folder = folders.adapter_folders().get(model_id)
    if folder is None:
        message = _("There is no adapter %(name)s on this machine.") % {"name": model_id}
        raise ValidationError({"model_id": message})
    found = folders.adapter_files(folder)
    if revision not in {"", found[0]}:
        message = _("The files of %(name)s on this machine have changed; choose it anew.")
        raise ValidationError({"model_revision": message % {"name": model_id}})
    return found
