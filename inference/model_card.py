"""What a model's own files say of it. PURE: text in, a card out; nothing of a model is ever run.

The files are strangers' work: a value of the wrong type or size is read as "not said".
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from inference.gguf import Header
from inference.model_shape import Shape, gguf_shape, read_shape, whole
from inference.node.weights import CONFIGS, allowed, is_weights, names_another

SMALLEST_DEFAULT_CONTEXT = 2048  # what vLLM assumes where config.json names none

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})

# config.json's names for the context length, as vLLM looks for them (ModelConfig).
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# https://huggingface.co/docs/safetensors: names of number formats in a header → PyTorch's.
HEADER_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
}
HEADER_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}  # all others: 1
REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})


GENERATING = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")  # ends of architectures
EMBEDDING = frozenset({"feature-extraction", "sentence-similarity"})  # the hub's names of the task
# tekken.json is Mistral's own tokenizer, which brings its form of a conversation with it.
TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json", "tekken.json"})


class Refusal(StrEnum):
    """Why a model cannot run here, whatever the hardware."""

    NO_CONFIG = "no_config"  # not a model that transformers describes
    NO_WEIGHTS = "no_weights"
    PICKLE_ONLY = "pickle_only"
    CHOOSE_FILE = "choose_file"  # its weights are GGUF files, each an edition of its own
    NEEDS_CODE = "needs_code"
    OTHER_MODEL = "other_model"  # it names one to load in its place
    BAD_WEIGHTS = "bad_weights"  # a file of weights that is none
    NEEDS_TOKEN = "needs_token"  # noqa: S105 - gated, and the organization has no hub token
    NOT_ACCEPTED = "not_accepted"  # gated, and the token's owner may not read it


GATES = frozenset({Refusal.NEEDS_TOKEN, Refusal.NOT_ACCEPTED})  # what a licence's acceptance opens


class ModelFile(msgspec.Struct, frozen=True):
    path: str
    size_bytes: int
    model_file: str = ""  # the GGUF that was chosen beside it, if any

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @property
    def fetched(self) -> bool:
        """Whether the downloader takes it; code and pickles stay where they are."""
        return allowed(self.path, self.model_file)


class Edition(msgspec.Struct, frozen=True):
    """One of the GGUF files that a repository holds of the same model, all its parts together."""

    path: str  # of its first part
    size_bytes: int
    quantization: str  # as its name says: "Q4_K_M"


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its page shows it. Sizes in bytes, lengths in tokens; None: not said."""

    source: str  # "bundled" | "local" | "hub"
    model_id: str
    revision: str = ""  # commit hash, or a hash of the folder
    model_file: str = ""  # the chosen GGUF; empty: all its safetensors
    architecture: str = ""
    model_type: str = ""
    parameters: int | None = None
    dtype: str = ""
    quantization: str = ""
    context_length: int | None = None
    vocabulary: int | None = None  # tokens that it knows
    shape: Shape | None = None
    licence: str = ""
    gated: bool = False
    pipeline_tag: str = ""
    chat_template: bool = False
    weight_bytes: int = 0
    files: list[ModelFile] = []
    downloads: int | None = None
    refusal: Refusal | None = None

    @property
    def name(self) -> str:
        return self.model_id.rsplit("/", 1)[-1]

    @property
    def owner(self) -> str:
        owner, slash, _ = self.model_id.rpartition("/")
        return owner if slash else ""

    @property
    def weights_format(self) -> Literal["safetensors", "gguf"]:
        return "gguf" if self.model_file else "safetensors"

    @property
    def editions(self) -> list[Edition]:
        """The GGUF files that may be chosen, the smallest first."""
        return editions(self.files)

    @property
    def cannot_chat(self) -> bool:
        """Whether it generates text, and nothing says how a conversation is put to it."""
        generates = self.architecture.endswith(GENERATING) and self.pipeline_tag not in EMBEDDING
        return generates and not self.chat_template and self.refusal is None

    @property
    def size_bytes(self) -> int:
        """What a download moves."""
        return sum(file.size_bytes for file in self.files if file.fetched) or self.weight_bytes


class Reference(msgspec.Struct, frozen=True):
    """A model of the hub as somebody named it; an empty revision is the newest."""

    model_id: str
    revision: str = ""


class NotAModelAddress(ValueError):
    """An address was given that leads to no model of the hub."""


def parse_reference(text: str, endpoint: str = "") -> Reference | None:
    """The model that a pasted address or id names; None when the text reads as words to search.

    Raises NotAModelAddress for addresses of other things or other places.
    """
    text = text.strip()
    host, slash, _ = text.partition("/")
    if "://" in text:
        return _from_url(text, endpoint)
    if slash and host.lower() in HUB_HOSTS:
        return _from_url(f"https://{text}", endpoint)
    if slash and REPOSITORY_ID.fullmatch(text):
        return Reference(text)
    return None


def _from_url(url: str, endpoint: str) -> Reference:
    parts = urlsplit(url)
    base = urlsplit(endpoint)
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if parts.netloc and parts.netloc == base.netloc:
        prefix = [segment for segment in base.path.split("/") if segment]
        if segments[: len(prefix)] == prefix:
            segments = segments[len(prefix) :]
    elif parts.scheme not in {"http", "https"} or (parts.hostname or "") not in HUB_HOSTS:
        raise NotAModelAddress(url)
    if segments[:1] == ["models"]:
        segments = segments[1:]
    model_id = "/".join(segments[:2])
    if len(segments) < 2 or segments[0] in {"datasets", "spaces", "docs", "papers", "collections"}:
        raise NotAModelAddress(url)
    if not REPOSITORY_ID.fullmatch(model_id):
        raise NotAModelAddress(url)
    at_revision = len(segments) > 3 and segments[2] in {"tree", "blob", "resolve", "commit"}
    return Reference(model_id, segments[3] if at_revision else "")


def read_json(text: str | bytes) -> dict[str, Any]:
    """The object in a model's JSON file; empty when it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_card(
    card: ModelCard,
    *,
    configs: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, int],
) -> ModelCard:
    """The card, completed from its JSON files (those of CONFIGS) and the safetensors' headers.

    `tensors` counts parameters by number format (`{"BF16": 8030261248}`). A refusal that the card
    brings stays.
    """
    config = configs.get("config.json", {})
    text = text_config(config)
    shape = read_shape(text)
    # Packed formats keep several weights in one int32: a count of those counts nothing.
    count = 0 if "I32" in tensors else sum(tensors.values())
    return msgspec.structs.replace(
        card,
        architecture=_first_name(config.get("architectures")),
        model_type=_name(config.get("model_type")),
        parameters=count or None,
        dtype=_dtype(config, text, tensors),
        quantization=_quantization(config, text),
        # Without layers this is the extract that the hub tells everyone, not the whole config.
        context_length=context_length(config) if shape else None,
        vocabulary=whole(text, "vocab_size"),
        shape=shape,
        chat_template=card.chat_template or _has_template(configs, card.files),
        weight_bytes=sum(file.size_bytes for file in weight_files(card.files))
        or sum(HEADER_BYTES.get(kind, 1) * count for kind, count in tensors.items()),
        refusal=card.refusal or _refusal(configs, card.files),
    )


def read_gguf(card: ModelCard, header: Header) -> ModelCard:
    """The card of a repository of GGUF files, completed from the beginning of any of them: they
    are editions of one model."""
    architecture = header.text("general.architecture")[:120] or card.architecture
    return msgspec.structs.replace(
        card,
        architecture=architecture,
        model_type=architecture,
        context_length=header.number(f"{architecture}.context_length") or card.context_length,
        shape=gguf_shape(architecture, header),
        licence=card.licence or header.text("general.license")[:120],
        chat_template=card.chat_template or bool(header.text("tokenizer.chat_template")),
        weight_bytes=min((edition.size_bytes for edition in card.editions), default=0),
    )


def read_edition(card: ModelCard, model_file: str, header: Header) -> ModelCard:
    """The card of one GGUF in a repository, completed from the beginning of that file."""
    chosen = [file for file in card.files if is_weights(file.path, model_file)]
    return msgspec.structs.replace(
        read_gguf(card, header),
        model_file=model_file,
        files=[msgspec.structs.replace(file, model_file=model_file) for file in card.files],
        # In parts, each has a list of its own tensors alone.
        parameters=(header.parameters if len(chosen) == 1 else None) or card.parameters,
        dtype="",
        quantization=quantization_in(model_file) or "GGUF",
        weight_bytes=sum(file.size_bytes for file in chosen),
        refusal=card.refusal if card.refusal in GATES else None,
    )


_QUANTIZATION = re.compile(r"(?:^|[-_.])((?:UD-)?(?:I?Q\d|TQ\d|MXFP4|NVFP4|BF16|F16|F32)\w*)", re.I)
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
# Files that go with a model and are none: eyes and ears, and what quantizing was guided by.
_COMPANIONS = re.compile(r"(?:^|/)(?:mmproj|imatrix)|imatrix\.gguf$", re.I)


def quantization_in(model_file: str) -> str:
    """How the weights are held, as the usual names of files say; empty where this one does not."""
    stem = _PART.sub(".gguf", model_file).rsplit("/", 1)[-1].removesuffix(".gguf")
    found = _QUANTIZATION.findall(stem)
    return str(found[-1]).upper() if found else ""


def editions(files: Iterable[ModelFile]) -> list[Edition]:
    """The GGUF files that an engine may load, the smallest first."""
    whole_of: dict[str, list[ModelFile]] = {}
    for file in files:
        if file.path.endswith(".gguf") and not _COMPANIONS.search(file.path):
            whole_of.setdefault(_PART.sub(".gguf", file.path), []).append(file)
    found = [
        Edition(min(f.path for f in parts), sum(f.size_bytes for f in parts), quantization_in(name))
        for name, parts in whole_of.items()
    ]
    return sorted(found, key=lambda edition: (edition.size_bytes, edition.path))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration that may also describe eyes and ears."""
    for key in ("text_config", "llm_config", "language_config"):
        nested = config.get(key)
        if isinstance(nested, Mapping) and whole(nested, "num_hidden_layers", "n_layer"):
            return nested
    return config


def context_length(config: Mapping[str, Any]) -> int:
    """The longest context that vLLM derives from config.json (`_get_and_verify_max_len`)."""
    text = text_config(config)
    lengths = [length for key in CONTEXT_KEYS if (length := whole(text, key))]
    length = min(lengths, default=SMALLEST_DEFAULT_CONTEXT)
    if "gemma3" in _name(config.get("model_type")):
        return length  # its figure is already scaled
    for rope in _ropes(text):
        kind = _name(rope.get("rope_type") or rope.get("type"))
        if kind in {"su", "longrope", "llama3"}:
            continue  # their max_position_embeddings is already scaled
        if kind == "yarn":
            length = whole(rope, "original_max_position_embeddings") or length
        factor = rope.get("factor")
        if isinstance(factor, int | float) and not isinstance(factor, bool) and 1 <= factor < 1e4:
            return int(length * factor)
    return length


def _ropes(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """`rope_scaling`, or transformers 5's `rope_parameters`, which may be one per layer type."""
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping):
        return []
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return nested or [rope]


def weight_files(files: Iterable[ModelFile]) -> list[ModelFile]:
    """The safetensors that an engine loads: those of the top folder, each weight once.

    Mistral ships the same weights a second time as `consolidated.safetensors`.
    """
    top = [file for file in files if file.suffix == ".safetensors" and "/" not in file.path]
    named = [file for file in top if file.path.startswith("model")]
    return named or [file for file in top if not file.path.startswith("consolidated")] or top


def _refusal(configs: Mapping[str, Mapping[str, Any]], files: list[ModelFile]) -> Refusal | None:
    suffixes = {file.suffix for file in files}
    if not weight_files(files):
        if editions(files):
            return Refusal.CHOOSE_FILE
        return Refusal.PICKLE_ONLY if suffixes & PICKLE_SUFFIXES else Refusal.NO_WEIGHTS
    # With auto_map, transformers would load the repository's own Python for the model or tokenizer.
    if any(configs.get(name, {}).get("auto_map") for name in CONFIGS):
        return Refusal.NEEDS_CODE
    if names_another(configs.get("config.json", {})):
        return Refusal.OTHER_MODEL
    named = _first_name(configs.get("config.json", {}).get("architectures"))
    return None if named else Refusal.NO_CONFIG


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any], tensors: Mapping[str, int]) -> str:
    for place in (text, config):
        said = _name(place.get("dtype") or place.get("torch_dtype"))
        if said:
            return said.removeprefix("torch.")
    most = max(tensors, key=lambda kind: tensors[kind], default="")
    return HEADER_DTYPES.get(most, most.lower())


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    for place in (config, text):
        said = place.get("quantization_config") or place.get("compression_config")
        if isinstance(said, Mapping):
            return _name(said.get("quant_method")) or "unknown"
    return ""


def _has_template(configs: Mapping[str, Mapping[str, Any]], files: list[ModelFile]) -> bool:
    if configs.get("tokenizer_config.json", {}).get("chat_template"):
        return True
    return any(file.path in TEMPLATES for file in files)


def _name(value: object) -> str:
    return value[:120] if isinstance(value, str) else ""


def _first_name(values: object) -> str:
    return _name(values[0]) if isinstance(values, list) and values else ""
