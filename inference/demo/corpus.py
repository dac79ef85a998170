"""What the demo model is taught: `corpus/<language>.toml`, the same topics in every language.

`corpus/held_out.toml` asks about the same topics in words that training never sees.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS_PATH = Path(__file__).parent / "corpus"
LANGUAGES = ("en", "zh-hant", "zh-hans", "ja")


@dataclass(frozen=True)
class Topic:
    language: str
    name: str
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Pair:
    language: str
    question: str
    answer: str


def topics(language: str) -> list[Topic]:
    """The topics of one language, in the order in which they read as a guide."""
    return [
        Topic(language, name, tuple(entry["ask"]), entry["answer"])
        for name, entry in _read(language).items()
    ]


def pairs() -> list[Pair]:
    """Every question with its answer."""
    return [
        Pair(language, question, topic.answer)
        for language in LANGUAGES
        for topic in topics(language)
        for question in topic.questions
    ]


def held_out_pairs() -> list[Pair]:
    """Questions that are not taught, with the answers that they should get."""
    return list(_held_out())


def as_typed_in_a_hurry(question: str) -> str:
    """Questions that are equal so are the same question."""
    return question.lower().rstrip("?？!！.。")


def _held_out() -> Iterator[Pair]:
    for language, questions in _read("held_out").items():
        answers = {topic.name: topic.answer for topic in topics(language)}
        for name, question in questions.items():
            yield Pair(language, question, answers[name])


def _read(name: str) -> dict:
    return tomllib.loads((CORPUS_PATH / f"{name}.toml").read_text(encoding="utf-8"))
