"""The catalogue's pages: models on hand at once, the hub's when it answers, one model in full."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.vary import vary_on_headers

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing.price_list import SHOWN
from inference import catalog, fit_answers, hub, model_prices, text_size
from inference.fit import Verdict
from inference.fit_answers import Answer, House
from inference.hub import HubError, ModelNotFound
from inference.model_card import GATES, ModelCard, NotAModelAddress, Refusal, parse_reference
from inference.models.instance import Instance
from portal.lib.env import environment

LONGEST_QUERY = 200
LONGEST_FILE = 255


@requires(Permission.VIEW)
def models(request: TenantRequest) -> HttpResponse:
    """What is on this machine; the page then asks `search` for the hub's part."""
    query = _query(request)
    try:
        reference = parse_reference(query, environment().hf_endpoint)
    except NotAModelAddress:
        return _catalog(request, query="", problem=_not_a_model(query))
    if reference is not None:
        address = reverse("model", args=[request.organization.slug, "hub", reference.model_id])
        at = f"?{urlencode({'revision': reference.revision})}" if reference.revision else ""
        return redirect(address + at)
    return _catalog(request, query=query)


@vary_on_headers("HX-Request")  # two answers at one address
@requires(Permission.VIEW)
def search(request: TenantRequest) -> HttpResponse:
    """The hub's models: a part of the page for htmx, the whole page without."""
    query = _query(request)
    if "again" in request.GET:
        hub.forget_failures()
    context: dict[str, Any] = {"query": query, "hub_asked": True} | _hub_words(query)
    try:
        found = catalog.search(request.organization, query)
    except HubError as error:
        context["hub_problem"] = error.sentence
    else:
        context["hub_rows"] = _rows(request, found)
    if request.headers.get("HX-Request"):
        return render(request, "inference/catalog.html#hub", context)
    return _catalog(request, **context)


@requires(Permission.VIEW)
def model(request: TenantRequest, source: str, model_id: str) -> HttpResponse:
    """One model: what it is, whether it fits here, and the way to an instance of it."""
    if source not in Instance.Source.values:
        raise Http404
    revision = request.GET.get("revision", "")[:LONGEST_QUERY]
    if "again" in request.GET:
        hub.forget_failures()
    model_file = request.GET.get("file", "")[:LONGEST_FILE]
    try:
        card = catalog.describe(request.organization, source, model_id, revision, model_file)
    except HubError as error:
        return _no_model(request, source, model_id, error)
    answers = House.of(request.organization).answers(card)
    language = text_size.language_of(
        request.headers.get("Accept-Language", ""), get_language() or "en"
    )
    context = {
        "card": card,
        "prices": model_prices.of_model(request.organization, card, language),
        "price_columns": [meter.label for meter in SHOWN],
        "source_label": Instance.Source(source).label,
        "fits": answers,
        "obstacle": fit_answers.obstacle(card, answers),
        "gate": card.refusal in GATES,
        "choose": card.refusal is Refusal.CHOOSE_FILE,
        "editions": _editions(request, card),
        "cannot_chat": card.cannot_chat,
        "sibling": card.name,
        "may_deploy": request.membership.allows(Permission.MANAGE_INSTANCES),
        "may_enter_token": request.membership.allows(Permission.MANAGE_ORGANIZATION),
        "deploy_query": _deploy_query(card, answers),
        "hub_page": f"{environment().hf_endpoint}/{card.model_id}" if source == "hub" else "",
    }
    return render(request, "inference/model.html", context)


def _catalog(request: TenantRequest, **context: Any) -> HttpResponse:
    rows = _rows(request, catalog.on_hand(context["query"]))
    words = _hub_words(context["query"])
    return render(request, "inference/catalog.html", {"rows": rows} | words | context)


def _hub_words(query: str) -> dict[str, str]:
    if not query:
        return {
            "hub_title": _("Most used on the Hugging Face hub"),
            "hub_empty": _("The hub lists no model."),
        }
    return {
        "hub_title": _("On the Hugging Face hub"),
        "hub_empty": _("No model on the hub has “%(query)s” in its name.") % {"query": query},
    }


def _no_model(request: TenantRequest, source: str, model_id: str, error: HubError) -> HttpResponse:
    missing = isinstance(error, ModelNotFound | catalog.FolderNotFound)
    context = {
        "source": source,
        "model_id": model_id,
        "problem": error.sentence,
        "retryable": error.retryable,
        "token_helps": isinstance(error, hub.GatedModel | hub.TokenRefused),
        "may_enter_token": request.membership.allows(Permission.MANAGE_ORGANIZATION),
    }
    status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.OK
    return render(request, "inference/model_problem.html", context, status=status)


def _rows(request: TenantRequest, cards: list[ModelCard]) -> list[dict[str, Any]]:
    house = House.of(request.organization)
    rows = []
    for card in cards:
        answers = house.answers(card)
        refused = card.refusal not in {None, Refusal.CHOOSE_FILE, *GATES}
        best = answers[0] if answers else None
        rows.append({"card": card, "best": best, "refused": refused})
    return rows


def _deploy_query(card: ModelCard, answers: list[Answer]) -> str:
    """The address of the form, with what the best answer suggests."""
    asked = {"source": card.source, "model": card.model_id, "revision": card.revision}
    if card.model_file:
        asked["file"] = card.model_file
    best = answers[0].fit if answers else None
    if best and best.verdict is Verdict.SHORTER:
        asked["max_model_len"] = str(best.max_context)
    if best and best.runs and best.gpu_count:
        asked["gpu_count"] = str(best.gpu_count)
    return urlencode(asked)


def _editions(request: TenantRequest, card: ModelCard) -> list[dict[str, Any]]:
    """The GGUF files that may be chosen, each with the address of its own page."""
    page = reverse("model", args=[request.organization.slug, card.source, card.model_id])
    return [
        {
            "edition": edition,
            "chosen": edition.path == card.model_file,
            "address": f"{page}?{urlencode({'revision': card.revision, 'file': edition.path})}",
        }
        for edition in card.editions
    ]


def _query(request: TenantRequest) -> str:
    return request.GET.get("q", "").strip()[:LONGEST_QUERY]


def _not_a_model(address: str) -> str:
    return _(
        "%(address)s is not the address of a model on the hub. "
        "Paste one like huggingface.co/Qwen/Qwen3-8B, or search by name."
    ) % {"address": address}
