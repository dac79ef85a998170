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

import io
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

from inference import gguf
from inference.engines import lora
from inference.model_card import (
    GATES,
    ModelCard,
    ModelFile,
    Refusal,
    read_card,
    read_edition,
    read_gguf,
    read_json,
    weight_files,
)
from inference.model_shape import whole
from inference.node.weights import CONFIGS
from portal.lib.env import environment
from portal.lib.errors import Conflict, Unavailable
from portal.lib.errors import Refusal as Refused

DEADLINE = 5.0  # seconds a page may wait in all
TIMEOUT = httpx2.Timeout(4.0, connect=2.5)  # seconds without a byte
GGUF_START = 1024 * 1024  # bytes, with all that a GGUF says before its vocabulary
LARGEST_FILE = 8 * 1024 * 1024  # bytes; tokenizer_config.json of large vocabularies has 1 MB
RESULTS = 20
LISTED = [
    *("config", "cardData", "downloads", "gated", "pipeline_tag"),
    *("safetensors", "gguf", "sha", "siblings", "tags"),
]
FORMATS = ("safetensors", "gguf")  # of weights that an engine here loads
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
    def __init__(self, model_id: str, revision: str = "", model_file: str = "") -> None:
        super().__init__(model_id, revision, model_file)
        self.model_id, self.revision, self.model_file = model_id, revision, model_file

    @property
    def sentence(self) -> str:
        if self.model_file:
            return no_file_sentence(self.model_id, self.model_file)
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


def no_file_sentence(model_id: str, model_file: str) -> str:
    return _("%(model)s has no GGUF file %(file)s.") % {"model": model_id, "file": model_file}


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
    """Models that engines here load whose name has these words, most used first. Raises HubError.

    No words: the most used of those that write text, in safetensors. The cards have no files, and
    what stands in config.json only where it came in time.
    """
    return _remembered(
        ("search", query.lower(), _visibility(token)),
        SEARCH_KEPT,
        list[ModelCard],
        lambda: _ask(lambda: _search(query, token), token),
    )


def describe(
    model_id: str, revision: str = "", token: str | None = None, model_file: str = ""
) -> ModelCard:
    """The card of a model at a revision (empty: the newest), pinned to its commit; of one GGUF in
    it where `model_file` names one.

    A gated model that may not be read has what the hub tells everyone, and a refusal. Raises
    HubUnreachable, ModelNotFound; GatedModel where not even that much is told.
    """
    return _remembered(
        ("card", model_id, revision, model_file, _visibility(token)),
        CARD_KEPT,
        ModelCard,
        lambda: _ask(
            lambda: _describe(model_id, revision, token, model_file), token, model_id, revision
        ),
        # Who has just accepted a licence wants to see it at once.
        keep=lambda card: card.refusal not in GATES,
    )


def adapter_files(
    model_id: str, revision: str = "", token: str | None = None
) -> tuple[str, set[str], dict[str, Any]]:
    """The commit that this revision of a LoRA adapter is (empty: the newest), the names of its
    files, and what its config says. Raises HubError."""
    return _ask(lambda: _adapter_files(model_id, revision, token), token, model_id, revision)


def _search(query: str, token: str | None) -> list[ModelCard]:
    began = time.monotonic()
    if query:
        lists = [_config_pool.submit(_list, query, form, token) for form in FORMATS]
        infos = _together([info for one in lists for info in one.result()])
    else:
        infos = _list("", FORMATS[0], token)
    with _hub_format():
        cards = [_outline(info) for info in infos]
    asked = [_config_pool.submit(_config_of, card, token) for card in cards]
    wait(asked, timeout=max(0.0, DEADLINE - 1 - (time.monotonic() - began)))
    for late in asked:
        late.cancel()
    return [_listed(*row) for row in zip(cards, infos, asked, strict=True)]


def _list(query: str, weights: str, token: str | None) -> list[ModelInfo]:
    """The most used with weights in this format."""
    params: dict[str, Any] = {"search": query, "filter": weights, "sort": "downloads"}
    if not query:  # else the hub's most used would be pictures and sentence vectors
        params["pipeline_tag"] = "text-generation"
    # Not HfApi.list_models: it has no time-out, and tries for half a minute before it gives up.
    content = _get(
        f"{environment().hf_endpoint}/api/models",
        token,
        params | {"limit": RESULTS, "expand": LISTED},
    )
    with _hub_format():
        return [ModelInfo(**row) for row in json.loads(content)[:RESULTS]]


def _together(infos: list[ModelInfo]) -> list[ModelInfo]:
    """Of both formats, each once; the most used first."""
    by_id = {info.id: info for info in infos}
    return sorted(by_id.values(), key=lambda info: -(info.downloads or 0))[:RESULTS]


def _config_of(card: ModelCard, token: str | None) -> dict[str, Any]:
    if not any(file.path == "config.json" for file in card.files):
        return {}
    return _file(card, "config.json", token)


def _listed(card: ModelCard, info: ModelInfo, asked: Future[dict[str, Any]]) -> ModelCard:
    """A search's result, with its config.json where that has come and may be read."""
    read = asked.done() and not asked.cancelled() and not asked.exception()
    config = (asked.result() if read else {}) or info.config or {}
    full = read_card(card, configs={"config.json": config}, tensors=_counted(info))
    if full.refusal is Refusal.CHOOSE_FILE:
        full = _said_of_gguf(full, info)
    return msgspec.structs.replace(full, files=[])


def _said_of_gguf(card: ModelCard, info: ModelInfo) -> ModelCard:
    """What the hub itself has read in the GGUF files of a repository."""
    said: Any = info.gguf
    if not isinstance(said, dict):
        return card
    name = said.get("architecture")
    architecture = name[:120] if isinstance(name, str) else ""
    return msgspec.structs.replace(
        card,
        architecture=architecture,
        model_type=architecture,
        parameters=whole(said, "total"),
        context_length=whole(said, "context_length"),
        chat_template=isinstance(said.get("chat_template"), str),
    )


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


def _describe(model_id: str, revision: str, token: str | None, model_file: str) -> ModelCard:
    api = HfApi(endpoint=environment().hf_endpoint, token=token or False)
    with _hub_format():
        info = api.model_info(
            model_id, revision=revision or None, timeout=TIMEOUT.read, files_metadata=True
        )
        card = _outline(info)
    names = {file.path for file in card.files}
    editions = [edition.path for edition in card.editions]
    if model_file and model_file not in editions:
        raise ModelNotFound(model_id, model_file=model_file)
    # Any edition tells of all; where there are safetensors, those are the model.
    read = model_file or ("" if weight_files(card.files) else next(iter(editions), ""))
    start = gguf.Header(metadata={})
    tensors = _counted(info)
    try:
        configs = {name: _file(card, name, token) for name in CONFIGS if name in names}
        tensors = tensors or _tensors(api, card)
        start = _gguf_start(card, read, token) if read else start
    except GatedRepoError:
        gate = Refusal.NOT_ACCEPTED if token else Refusal.NEEDS_TOKEN
        card = msgspec.structs.replace(card, gated=True, refusal=gate)
        configs = {"config.json": info.config or {}}
    full = read_card(card, configs=configs, tensors=tensors)
    if model_file:
        return read_edition(_said_of_gguf(full, info), model_file, start)
    if full.refusal is Refusal.CHOOSE_FILE:
        return read_gguf(_said_of_gguf(full, info), start)
    return full


def _gguf_start(card: ModelCard, name: str, token: str | None) -> gguf.Header:
    """What the beginning of a GGUF says; nothing where it is none, which its engine will tell."""
    url = hf_hub_url(
        card.model_id, name, revision=card.revision, endpoint=environment().hf_endpoint
    )
    try:
        return gguf.read(io.BytesIO(_get(url, token, first=GGUF_START)))
    except gguf.NotGguf:
        return gguf.Header(metadata={})


def _adapter_files(
    model_id: str, revision: str, token: str | None
) -> tuple[str, set[str], dict[str, Any]]:
    api = HfApi(endpoint=environment().hf_endpoint, token=token or False)
    with _hub_format():
        card = _outline(api.model_info(model_id, revision=revision or None, timeout=TIMEOUT.read))
    names = {file.path for file in card.files}
    return card.revision, names, _file(card, lora.CONFIG, token) if lora.CONFIG in names else {}


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


def _get(
    url: str, token: str | None, params: dict[str, Any] | None = None, first: int | None = None
) -> bytes:
    """The whole content, or so many bytes of its beginning; nothing where that is too long."""
    headers = build_hf_headers(token=token or False)
    if first is not None:
        headers["Range"] = f"bytes=0-{first - 1}"
    with get_session().stream(
        "GET", url, params=params, headers=headers, timeout=TIMEOUT, follow_redirects=True
    ) as response:
        hf_raise_for_status(response)
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if first is not None and len(content) >= first:
                return bytes(content[:first])  # also where the server heeds no range
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
