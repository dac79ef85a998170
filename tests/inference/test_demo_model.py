"""The bundled model is what its card says, and the corpus is the same in every language."""

import json
import re
import struct
from collections import defaultdict
from math import prod
from pathlib import Path

import pytest

from inference import demo
from inference.demo import MODEL_PATH, corpus

ENGINE_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def read_json(name: str) -> dict:
    return json.loads((MODEL_PATH / name).read_text(encoding="utf-8"))


def tensors() -> dict[str, dict]:
    """The header of the weights: an 8-byte little-endian length, then that much JSON."""
    raw = (MODEL_PATH / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    assert max(t["data_offsets"][1] for t in header.values()) == len(raw) - 8 - length
    return header


def parameters() -> int:
    return sum(prod(tensor["shape"]) for tensor in tensors().values())


def parameters_of(config: dict) -> int:
    """A Llama with tied embeddings and these sizes has this many parameters."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * config["num_key_value_heads"]
    layer = attention + 3 * hidden * inner + 2 * hidden
    return config["vocab_size"] * hidden + config["num_hidden_layers"] * layer + hidden


def card() -> str:
    return (MODEL_PATH / "README.md").read_text(encoding="utf-8")


def test_the_folder_holds_weights_and_words_and_no_code():
    assert {path.name for path in MODEL_PATH.iterdir()} == ENGINE_FILES | {"README.md"}
    for name in ENGINE_FILES - {"model.safetensors"}:
        assert "auto_map" not in read_json(name)


def test_it_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in MODEL_PATH.iterdir()) < 3_000_000


def test_an_engine_finds_a_llama_with_tied_embeddings():
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 2048
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert {tensor["dtype"] for tensor in tensors().values()} == {"BF16"}
    assert parameters() == parameters_of(config)


def test_the_card_says_what_the_files_are():
    assert f"{parameters():,} parameters" in card()
    assert f"{len(corpus.pairs()):,} questions" in card()
    assert f"{len(corpus.topics('en'))} topics" in card()
    assert "license: apache-2.0" in card()
    assert "python -m inference.demo.train" in card()


def test_the_tokenizer_has_the_vocabulary_of_the_weights():
    vocabulary = read_json("tokenizer.json")["model"]["vocab"]
    assert len(vocabulary) == read_json("config.json")["vocab_size"] == 2048


def test_an_answer_ends_with_the_token_that_the_template_ends_turns_with():
    tokenizer_config = read_json("tokenizer_config.json")
    vocabulary = read_json("tokenizer.json")["model"]["vocab"]
    end = tokenizer_config["eos_token"]
    assert end in tokenizer_config["chat_template"]
    assert read_json("generation_config.json")["eos_token_id"] == vocabulary[end]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_the_chat_template_knows_every_role_by_a_token_of_its_own(role):
    marker = f"<|{role}|>"
    assert marker in read_json("tokenizer_config.json")["chat_template"]
    added = {token["content"] for token in read_json("tokenizer.json")["added_tokens"]}
    assert marker in added


def test_the_revision_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = demo.model_revision()
    assert re.fullmatch(r"[0-9a-f]{40}", shipped)
    for path in MODEL_PATH.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(demo, "MODEL_PATH", tmp_path)
    (tmp_path / "README.md").write_text("better words")
    assert demo.model_revision.__wrapped__() == shipped
    (tmp_path / "config.json").write_text("{}")
    assert demo.model_revision.__wrapped__() != shipped


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_every_language_teaches_the_same_topics(language):
    names = [topic.name for topic in corpus.topics(language)]
    assert names == [topic.name for topic in corpus.topics("en")]
    assert len(names) >= 40
    assert all(len(topic.questions) >= 4 and topic.answer for topic in corpus.topics(language))


def test_no_question_has_two_answers():
    answers = defaultdict(set)
    for pair in corpus.pairs():
        answers[corpus.as_typed_in_a_hurry(pair.question)].add(pair.answer)
    assert [question for question, known in answers.items() if len(known) > 1] == []


def test_what_is_held_out_is_not_taught():
    taught = {corpus.as_typed_in_a_hurry(pair.question) for pair in corpus.pairs()}
    held_out = [corpus.as_typed_in_a_hurry(pair.question) for pair in corpus.held_out_pairs()]
    assert held_out
    assert taught.isdisjoint(held_out)
