"""What a card makes of a model's files, the honest ones and the others."""

from typing import Any

import pytest

from inference.model_card import (
    ModelCard,
    ModelFile,
    NotAModelAddress,
    Reference,
    Refusal,
    context_length,
    parse_reference,
    read_card,
    read_json,
    weight_files,
)

LLAMA = {  # the demo's architecture; the same keys as meta-llama/Llama-3.1-8B-Instruct
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "torch_dtype": "bfloat16",
}
SAFE = ["config.json", "tokenizer.json", "model.safetensors"]


def card_of(
    names: list[str],
    config: dict[str, Any] | None = None,
    tokenizer_config: dict[str, Any] | None = None,
    tensors: dict[str, int] | None = None,
) -> ModelCard:
    files = [ModelFile(name, 1000) for name in names]
    return read_card(
        ModelCard(source="hub", model_id="acme/model", files=files),
        configs={
            "config.json": LLAMA if config is None else config,
            "tokenizer_config.json": tokenizer_config or {},
        },
        tensors=tensors or {},
    )


def test_a_card_says_what_config_and_headers_say() -> None:
    card = card_of(SAFE, tokenizer_config={"chat_template": "{{ x }}"}, tensors={"BF16": 8_030})
    assert card.architecture == "LlamaForCausalLM"
    assert (card.parameters, card.dtype, card.context_length) == (8_030, "bfloat16", 131_072)
    assert card.shape is not None
    assert (card.shape.layers, card.shape.kv_heads, card.shape.head_dim) == (32, 8, 128)
    assert card.chat_template
    assert card.refusal is None


@pytest.mark.parametrize(
    ("names", "config", "template", "cannot"),
    [
        (SAFE, LLAMA, None, True),
        (SAFE, LLAMA, "{{ messages }}", False),
        ([*SAFE, "chat_template.jinja"], LLAMA, None, False),
        ([*SAFE, "tekken.json"], LLAMA, None, False),  # Mistral's own
        (SAFE, {"architectures": ["BertModel"]}, None, False),  # nobody expects it to
        (["pytorch_model.bin"], LLAMA, None, False),  # it has other troubles
    ],
)
def test_a_base_model_cannot_chat(
    names: list[str], config: dict[str, Any], template: str | None, cannot: bool
) -> None:
    said = {"chat_template": template} if template else {}
    assert card_of(names, config, tokenizer_config=said).cannot_chat is cannot


def test_the_number_format_comes_from_the_headers_when_config_is_silent() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert card_of(SAFE, config, tensors={"F32": 5, "F16": 500}).dtype == "float16"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 32768}, 32_768),  # Qwen2.5-7B
        (LLAMA, 131_072),  # llama3 scaling is in the figure already
        (
            # Qwen/Qwen2.5-7B-Instruct's model card: how to switch YaRN on
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                    "type": "yarn",
                },
            },
            131_072,
        ),
        (
            # deepseek-ai/DeepSeek-V2-Lite-Chat
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 40,
                    "original_max_position_embeddings": 4096,
                },
            },
            163_840,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}}, 16384),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope"}}, 131_072),
        (
            # transformers 5: one set of rope parameters per layer type
            {
                "max_position_embeddings": 8192,
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}},
            },
            8_192,
        ),
        (
            # google/gemma-3-4b-it: scaled already, and under text_config
            {
                "model_type": "gemma3",
                "text_config": {
                    "num_hidden_layers": 34,
                    "max_position_embeddings": 131072,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                },
            },
            131_072,
        ),
        ({"n_positions": 1024}, 1_024),  # openai-community/gpt2
        ({}, 2_048),
    ],
)
def test_context_length_is_derived_as_the_engine_derives_it(
    config: dict[str, Any], expected: int
) -> None:
    assert context_length(config) == expected


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        (SAFE, None),
        (["config.json", "pytorch_model.bin"], Refusal.PICKLE_ONLY),
        (["config.json", "model.pt"], Refusal.PICKLE_ONLY),
        (["config.json", "model-Q4_K_M.gguf"], Refusal.CHOOSE_FILE),
        (["config.json", "README.md"], Refusal.NO_WEIGHTS),
        # pickles beside safetensors are left where they are
        ([*SAFE, "pytorch_model.bin"], None),
        # safetensors of something else, in a folder: no weights of the model itself
        (["config.json", "vae/model.safetensors"], Refusal.NO_WEIGHTS),
    ],
)
def test_only_safetensors_run(names: list[str], refusal: Refusal | None) -> None:
    assert card_of(names).refusal is refusal


@pytest.mark.parametrize("where", ["config", "tokenizer_config"])
def test_a_model_that_brings_its_own_code_is_refused(where: str) -> None:
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Model"}}
    if where == "config":
        card = card_of(SAFE, LLAMA | auto_map)
    else:
        card = card_of(SAFE, tokenizer_config=auto_map)
    assert card.refusal is Refusal.NEEDS_CODE


def test_a_model_that_names_another_in_its_place_is_refused() -> None:
    elsewhere = {"verifier": {"name_or_path": "/srv/models/of-somebody-else"}}
    assert card_of(SAFE, LLAMA | {"speculators_config": elsewhere}).refusal is Refusal.OTHER_MODEL
    assert card_of(SAFE, LLAMA | {"speculators_config": None}).refusal is None


def test_safetensors_without_a_configuration_are_refused() -> None:
    assert card_of(["model.safetensors"], {}).refusal is Refusal.NO_CONFIG


def test_a_refusal_that_is_known_already_stays() -> None:
    card = ModelCard(source="hub", model_id="a/b", refusal=Refusal.NEEDS_TOKEN)
    read = read_card(card, configs={}, tensors={})
    assert read.refusal is Refusal.NEEDS_TOKEN


@pytest.mark.parametrize(
    "hostile",
    [
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [["deep"]], "num_hidden_layers": "many"},
        {"num_hidden_layers": -1, "num_attention_heads": 0, "hidden_size": 4096},
        {"max_position_embeddings": 10**30},
        {"rope_scaling": {"type": ["yarn"], "factor": "1e400"}},
        {"rope_scaling": {"rope_type": "linear", "factor": float("inf")}},
        {"torch_dtype": {"a": 1}, "text_config": [], "quantization_config": "awq"},
    ],
)
def test_nonsense_in_a_configuration_is_read_as_not_said(hostile: dict[str, Any]) -> None:
    card = card_of(SAFE, LLAMA | hostile)
    assert (card.context_length or 0) <= 131_072 * 8


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, b"\xff\xfe"])
def test_a_file_that_holds_no_object_is_an_empty_one(text: str | bytes) -> None:
    assert read_json(text) == {}


def test_weights_that_are_shipped_twice_count_once() -> None:
    # mistralai/Mistral-7B-Instruct-v0.3
    names = ["consolidated.safetensors", "model-00001-of-00002.safetensors"]
    assert [file.path for file in weight_files([ModelFile(n, 1) for n in names])] == names[1:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-8B", Reference("Qwen/Qwen3-8B")),
        ("  Qwen/Qwen3-8B ", Reference("Qwen/Qwen3-8B")),
        ("https://huggingface.co/Qwen/Qwen3-8B", Reference("Qwen/Qwen3-8B")),
        ("hf.co/Qwen/Qwen3-8B", Reference("Qwen/Qwen3-8B")),
        ("https://huggingface.co/Qwen/Qwen3-8B/tree/main", Reference("Qwen/Qwen3-8B", "main")),
        (
            "https://huggingface.co/Qwen/Qwen3-8B/tree/refs%2Fpr%2F1",
            Reference("Qwen/Qwen3-8B", "refs/pr/1"),
        ),
        ("https://hub.acme.example/hf/Qwen/Qwen3-8B?x=1#y", Reference("Qwen/Qwen3-8B")),
        ("qwen", None),
        ("qwen 8b instruct", None),
        ("../../etc/passwd", None),
        ("", None),
    ],
)
def test_addresses_and_ids_are_told_from_words(text: str, expected: Reference | None) -> None:
    assert parse_reference(text, "https://hub.acme.example/hf") == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/openai/gsm8k",
        "https://huggingface.co/Qwen",
        "https://example.com/Qwen/Qwen3-8B",
        "file:///etc/passwd",
        "https://huggingface.co/../../x",
    ],
)
def test_addresses_of_other_things_are_refused(text: str) -> None:
    with pytest.raises(NotAModelAddress):
        parse_reference(text)
