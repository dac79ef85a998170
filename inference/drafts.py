"""The second model of speculative decoding, as people ask for it: found, pinned to what it is now
and seen to go with the first one. Pages and REST ask alike."""

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from accounts.models import Organization
from inference import catalog
from inference.fit_words import grouped
from inference.hub import HubError
from inference.model_card import ModelCard, NotAModelAddress, Reference, parse_reference
from inference.models import Instance
from portal.lib.env import environment


def find(
    organization: Organization, source: str, name: str, revision: str = ""
) -> ModelCard | None:
    """The draft model of this name, as it is at that revision; None where none is asked for.

    Raises ValidationError where there is none, or none that may run here; HubError where the hub
    does not answer.
    """
    if not source and not name:
        return None
    if not source or not name:
        raise _problem(_("Say both where the draft model is and what it is called."))
    wanted = _reference(name) if source == catalog.Source.HUB else Reference(name)
    try:
        card = catalog.describe(organization, source, wanted.model_id, revision or wanted.revision)
    except HubError as error:
        if error.retryable:
            raise
        raise _problem(error.sentence) from error
    if refusal := catalog.refusal_sentence(card):
        raise _problem(refusal)
    return card


def check(model: ModelCard, draft: ModelCard | None, settings: Mapping[str, object]) -> None:
    """Whether one may guess for the other, as far as their files tell. Raises ValidationError."""
    if draft is None or settings.get("speculation") != "draft_model":
        return
    # A word of the one must be the same word of the other (vLLM's SpeculativeConfig).
    if model.vocabulary and draft.vocabulary and model.vocabulary != draft.vocabulary:
        facts = {
            "draft": grouped(draft.vocabulary),
            "model": grouped(model.vocabulary),
        }
        raise _problem(
            _(
                "The draft model has a vocabulary of %(draft)s tokens and the model one of "
                "%(model)s; they must have the same. Choose a smaller model of the same family."
            )
            % facts
        )


def check_for(instance: Instance, draft: ModelCard | None, settings: Mapping[str, object]) -> None:
    """As `check`, for the model of an instance; passed over where one cannot look at it now."""
    if draft is None:
        return
    facts = (
        *(instance.model_source, instance.model_id, instance.model_revision),
        instance.model_file,
    )
    try:
        model = catalog.describe(instance.organization, *facts)
    except HubError:
        return
    check(model, draft, settings)


def fields(draft: ModelCard | None) -> dict[str, str]:
    """What an instance keeps of it."""
    return {
        "draft_source": draft.source if draft else "",
        "draft_id": draft.model_id if draft else "",
        "draft_revision": draft.revision if draft else "",
    }


def _reference(name: str) -> Reference:
    """A name on the hub, or the address of its page there."""
    try:
        return parse_reference(name, environment().hf_endpoint) or Reference(name)
    except NotAModelAddress as error:
        sentence = _("%(address)s is not the address of a model on the hub.")
        raise _problem(sentence % {"address": name}) from error


def _problem(sentence: str) -> ValidationError:
    return ValidationError({"draft_id": sentence})
