"""The Hugging Face hub, or its mirror at HF_ENDPOINT: search, and what it says of a model.

A page waits for it, so every question has a deadline, nothing is tried twice, and for a few
seconds after a failure the answer is known without asking. Wire format:
https://huggingface.co/docs/hub/api; `huggingface_hub` speaks it.

    HubError               a sentence for people
    ├── HubUnreachable     try again later (`retryable`)
    ├── TokenRefused       the organization's hub token is wrong, expired or too narrow
    ├── ModelNotFound      no such model or revision, or none that this token may see
    └── GatedModel         its licence is to be accepted first (`has_token`: by the token's owner)
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import msgspec
from django.core.cache import cache
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from redis import RedisError

from inference.model_card import (
    GATES,
    ModelCard,
    ModelFile,
    Refusal,
    read_card,
    read_json,
    weight_files,
)
from inference.node.weights import CONFIGS
from portal.lib.env import environment
from portal.lib.errors import Conflict, Unavailable
from portal.lib.errors import Refusal as Refused

DEADLINE = 5.0  # seconds a page may wait in all
TIMEOUT = httpx2.Timeout(4.0, connect=2.5)  # seconds without a byte
LARGEST_FILE = 8 * 1024 * 1024  # bytes; tokenizer_config.json of large vocabularies has 1 MB
RESULTS = 20
LISTED = [
    *("config", "cardData", "downloads", "gated", "pipeline_tag"),
    *("safetensors", "sha", "siblings", "tags"),
]
# Seconds that answers are kept.
SEARCH_KEPT = 300
CARD_KEPT = 900
UNREACHABLE_KEPT = 10
CACHE_VERSION = 2  # grows with the shape of ModelCard

# Name resolution and a dripping server heed no time-out, so the waiting is done from outside
_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hub")
_config_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hub-config")

Answer = TypeVar("Answer")


class HubError(Refused):
    """The hub did not give what was asked for."""

    def __init__(self, *facts: object) -> None:
        Exception.__init__(self, *facts)

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> str:
        raise NotImplementedError


class HubUnreachable(HubError, Unavailable):
    @property
    def sentence(self) -> str:
        return _(
            "The model hub at %(address)s cannot be reached from here. "
            "Models on this machine work without it."
        ) % {"address": environment().hf_endpoint}


class TokenRefused(HubError, Conflict):
    @property
    def sentence(self) -> str:
        return _(
            "The hub refuses your organization's hub token: it is wrong, has expired, or may not "
            "read models. Enter a new one in the settings."
        )


class ModelNotFound(HubError):
    def __init__(self, model_id: str, revision: str = "") -> None:
        super().__init__(model_id, revision)
        self.model_id, self.revision = model_id, revision

    @property
    def sentence(self) -> str:
        if self.revision:
            return _("%(model)s has no revision %(revision)s.") % {
                "model": self.model_id,
                "revision": self.revision,
            }
        return _(
            "There is no model %(model)s, or your organization's hub token may not see it. "
            "Check the spelling; capital letters count."
        ) % {"model": self.model_id}


class GatedModel(HubError, Conflict):
    def __init__(self, model_id: str, has_token: bool) -> None:
        super().__init__(model_id)
        self.model_id, self.has_token = model_id, has_token

    @property
    def refusal(self) -> Refusal:
        return Refusal.NOT_ACCEPTED if self.has_token else Refusal.NEEDS_TOKEN

    @property
    def sentence(self) -> str:
        return gated_sentence(self.model_id, self.has_token)


def gated_sentence(model_id: str, has_token: bool) -> str:
    """What to do about a gated model."""
    if has_token:
        return _(
            "%(model)s is gated, and the owner of your organization's hub token may not read it "
            "yet: accept its licence on the hub with that account, then try again."
        ) % {"model": model_id}
    return _(
        "%(model)s is gated: accept its licence on the hub, then enter a hub token of your "
        "organization in the settings."
    ) % {"model": model_id}


def search(query: str, token: str | None = None) -> list[ModelCard]:
    """Models with safetensors whose name has these words, most used first. Raises HubError.

    No words: the most used of those that write text. The cards have no files, and what stands in
    config.json only where it came in time.
    """
    return _remembered(
        ("search", query.lower(), _visibility(token)),
        SEARCH_KEPT,
        list[ModelCard],
        lambda: _ask(lambda: _search(query, token), token),
    )


def describe(model_id: str, revision: str = "", token: str | None = None) -> ModelCard:
    """The card of a model at a revision (empty: the newest), pinned to its commit.

    A gated model that may not be read has what the hub tells everyone, and a refusal. Raises
    HubUnreachable, ModelNotFound; GatedModel where not even that much is told.
    """
    return _remembered(
        ("card", model_id, revision, _visibility(token)),
        CARD_KEPT,
        ModelCard,
        lambda: _ask(lambda: _describe(model_id, revision, token), token, model_id, revision),
        # Who has just accepted a licence wants to see it at once.
        keep=lambda card: card.refusal not in GATES,
    )


def _search(query: str, token: str | None) -> list[ModelCard]:
    began = time.monotonic()
    params: dict[str, Any] = {"search": query, "filter": "safetensors", "sort": "downloads"}
    if not query:  # else the hub's most used would be pictures and sentence vectors
        params["pipeline_tag"] = "text-generation"
    # Not HfApi.list_models: it has no time-out, and tries for half a minute before it gives up.
    content = _get(
        f"{environment().hf_endpoint}/api/models",
        token,
        params | {"limit": RESULTS, "expand": LISTED},
    )
    with _hub_format():
        infos = [ModelInfo(**row) for row in json.loads(content)[:RESULTS]]
        cards = [_outline(info) for info in infos]
    asked = [_config_pool.submit(_file, card, "config.json", token) for card in cards]
    wait(asked, timeout=max(0.0, DEADLINE - 1 - (time.monotonic() - began)))
    for late in asked:
        late.cancel()
    return [_listed(*row) for row in zip(cards, infos, asked, strict=True)]


def _listed(card: ModelCard, info: ModelInfo, asked: Future[dict[str, Any]]) -> ModelCard:
    """A search's result, with its config.json where that has come and may be read."""
    read = asked.done() and not asked.cancelled() and not asked.exception()
    config = (asked.result() if read else {}) or info.config or {}
    full = read_card(card, configs={"config.json": config}, tensors=_counted(info))
    return msgspec.structs.replace(full, files=[])


@contextmanager
def _hub_format() -> Iterator[None]:
    """What is read here should be the hub's JSON; a captive portal's page is no answer."""
    try:
        yield
    except HFValidationError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubUnreachable from error


def _outline(info: ModelInfo) -> ModelCard:
    """What the hub itself tells of a model, without a look into its files."""
    return ModelCard(
        source="hub",
        model_id=info.id,  # the hub follows renames; an id of today lasts longer
        revision=info.sha or "main",
        files=[ModelFile(s.rfilename, s.size or 0) for s in info.siblings or []],
        licence=_licence(info),
        gated=bool(info.gated),
        pipeline_tag=info.pipeline_tag or "",
        downloads=info.downloads,
    )


def _counted(info: ModelInfo) -> dict[str, int]:
    return dict(info.safetensors.parameters) if info.safetensors else {}


def _describe(model_id: str, revision: str, token: str | None) -> ModelCard:
    api = HfApi(endpoint=environment().hf_endpoint, token=token or False)
    with _hub_format():
        info = api.model_info(
            model_id, revision=revision or None, timeout=TIMEOUT.read, files_metadata=True
        )
        card = _outline(info)
    names = {file.path for file in card.files}
    tensors = _counted(info)
    try:
        configs = {name: _file(card, name, token) for name in CONFIGS if name in names}
        tensors = tensors or _tensors(api, card)
    except GatedRepoError:
        gate = Refusal.NOT_ACCEPTED if token else Refusal.NEEDS_TOKEN
        card = msgspec.structs.replace(card, gated=True, refusal=gate)
        configs = {"config.json": info.config or {}}
    return read_card(card, configs=configs, tensors=tensors)


def _file(card: ModelCard, name: str, token: str | None) -> dict[str, Any]:
    """A JSON file of the pinned commit; empty where it holds something else."""
    url = hf_hub_url(
        card.model_id, name, revision=card.revision, endpoint=environment().hf_endpoint
    )
    try:
        return read_json(_get(url, token))
    except RemoteEntryNotFoundError:
        return {}


def _tensors(api: HfApi, card: ModelCard) -> dict[str, int]:
    """Parameters by number format, for a mirror that does not count them; of one file at most.

    Many files would take longer than a page has; sizes of files then stand for the weights.
    """
    weights = weight_files(card.files)
    if len(weights) != 1:
        return {}
    try:
        header = api.parse_safetensors_file_metadata(
            card.model_id, weights[0].path, revision=card.revision, timeout=TIMEOUT.read
        )
    except (SafetensorsParsingError, NotASafetensorsRepoError):
        return {}
    return {str(kind): count for kind, count in header.parameter_count.items()}


def _get(url: str, token: str | None, params: dict[str, Any] | None = None) -> bytes:
    headers = build_hf_headers(token=token or False)
    with get_session().stream(
        "GET", url, params=params, headers=headers, timeout=TIMEOUT, follow_redirects=True
    ) as response:
        hf_raise_for_status(response)
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > LARGEST_FILE:
                return b""  # no configuration is that long: read as nothing said
        return bytes(content)


def _licence(info: ModelInfo) -> str:
    """The licence's name: the card's own where the hub's list says only "other"."""
    data: Any = info.card_data
    said = getattr(data, "license", None) or ""
    if said == "other":
        said = getattr(data, "license_name", None) or said
    if not said:
        tags = [tag for tag in info.tags or [] if tag.startswith("license:")]
        said = tags[0].removeprefix("license:") if tags else ""
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def _ask(
    question: Callable[[], Answer],
    token: str | None,
    model_id: str = "",
    revision: str = "",
) -> Answer:
    """The answer within DEADLINE, the library's errors said in ours."""
    if _kept_away():
        raise HubUnreachable
    try:
        return _pool.submit(question).result(timeout=DEADLINE)
    except GatedRepoError as error:  # before its parent, RepositoryNotFoundError
        raise GatedModel(model_id, has_token=token is not None) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(model_id, revision) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(model_id) from error
    except HfHubHTTPError as error:
        raise _said(error, model_id, token) from error
    except (httpx2.HTTPError, OfflineModeIsEnabled, NotInTime) as error:
        _keep_away()
        raise HubUnreachable from error


def _said(error: HfHubHTTPError, model_id: str, token: str | None) -> HubError:
    """An answer with a status that no class of the library stands for."""
    status = error.response.status_code
    if token and status in {401, 403}:
        return TokenRefused()
    if model_id and status in {400, 401, 403, 404}:
        return ModelNotFound(model_id)
    _keep_away()  # 429 and 5xx: it asks to be left alone
    return HubUnreachable()


_away_until = 0.0  # monotonic; of this process, since its own network is what failed


def _kept_away() -> bool:
    return time.monotonic() < _away_until


def _keep_away() -> None:
    global _away_until
    _away_until = time.monotonic() + UNREACHABLE_KEPT


def forget_failures() -> None:
    """Ask again at once: somebody pressed "try again"."""
    global _away_until
    _away_until = 0.0


def _visibility(token: str | None) -> str:
    """Who sees the same hub: everyone without a token, else those with the same one."""
    return salted_hmac("hub", token).hexdigest()[:20] if token else "public"


def _remembered(
    question: tuple[str, ...],
    seconds: int,
    kind: type[Answer],
    ask: Callable[[], Answer],
    keep: Callable[[Answer], bool] = lambda answer: True,
) -> Answer:
    """The kept answer, else a new one. Without Redis every question is asked."""
    asked = json.dumps([CACHE_VERSION, environment().hf_endpoint, *question])
    key = f"hub:{salted_hmac('hub cache', asked).hexdigest()}"
    try:
        kept = cache.get(key)
    except RedisError:
        return ask()
    if isinstance(kept, bytes):
        return msgspec.json.decode(kept, type=kind)
    answer = ask()
    if not keep(answer):
        return answer
    try:
        cache.set(key, msgspec.json.encode(answer), seconds)
    except RedisError:
        return answer
    return answer
