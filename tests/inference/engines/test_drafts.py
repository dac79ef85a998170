"""Speculative decoding with a second model, as the adapters see it."""

import json

import pytest

from inference.engines import ENGINES
from inference.engines.base import BadSetting
from inference.engines.vllm_settings import DRAFTING
from tests.inference.engines.test_vllm import argv, pair

VLLM = ENGINES["vllm"]


@pytest.mark.parametrize(("method", "guesses"), [("eagle", 2), ("eagle3", 2), ("draft_model", 5)])
def test_vllm_is_told_where_the_draft_model_lies(method: str, guesses: int) -> None:
    settings = {"speculation": method}

    told = json.loads(
        pair(argv(settings=settings, draft_path="/models/small"), "--speculative-config")
    )

    assert told == {"method": method, "model": "/models/small", "num_speculative_tokens": guesses}


def test_the_tokens_to_guess_may_be_set() -> None:
    settings = {"speculation": "eagle3", "speculative_tokens": 7}

    line = argv(settings=settings, draft_path="/models/small")

    assert json.loads(pair(line, "--speculative-config"))["num_speculative_tokens"] == 7


@pytest.mark.parametrize(
    ("engine", "settings", "draft", "why"),
    [
        ("vllm", {}, "acme/small", "needs speculation to be eagle, eagle3 or draft_model"),
        ("vllm", {"speculation": "ngram"}, "acme/small", "needs speculation to be"),
        ("vllm", {"speculation": "mtp"}, "acme/small", "needs speculation to be"),
        *(("vllm", {"speculation": one}, "", f"{one}, a draft model must") for one in DRAFTING),
        ("transformers", {}, "acme/small", "transformers serve takes no draft model"),
    ],
)
def test_a_draft_model_is_there_where_it_is_used_and_only_there(
    engine: str, settings: dict[str, object], draft: str, why: str
) -> None:
    with pytest.raises(BadSetting, match=why):
        ENGINES[engine].check_draft(settings, draft)


def test_no_command_line_is_written_without_the_draft_model_it_needs() -> None:
    with pytest.raises(BadSetting, match="must be chosen"):
        argv(settings={"speculation": "eagle"})


@pytest.mark.parametrize("method", DRAFTING)
def test_embeddings_are_not_guessed(method: str) -> None:
    with pytest.raises(BadSetting, match="not for embeddings"):
        VLLM.check({"speculation": method, "runner": "pooling"})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("acme/EAGLE3-Llama", "Choose eagle3"),
        ("acme/Eagle-Llama", "Choose eagle "),
        ("/models/beagle-1b/snapshot", "Choose eagle "),
        ("acme/Qwen3-DFlash", "Choose another"),
    ],
)
def test_a_name_by_which_vllm_takes_a_draft_model_for_something_else_is_refused(
    name: str, remedy: str
) -> None:
    with pytest.raises(BadSetting, match=remedy):
        VLLM.check_draft({"speculation": "draft_model"}, name)
    VLLM.check_draft({"speculation": "eagle3"}, name)
