"""A model's price on its page: by the million, and by the reader's 1,000 characters."""

import dataclasses
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import Organization, User
from billing import wallet
from billing.models import PriceBook, Terms
from inference import demo, folders, model_prices, text_size
from inference.model_card import ModelCard
from portal.lib import env
from tests.billing.pricing import TOKENS, a_price

PAGE = f"/o/acme/models/bundled/{demo.MODEL_ID}/"
COUNTS = {"en": 150, "zh-hant": 300, "zh-hans": 250, "ja": 200}


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    cache.clear()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A tokenizer that makes COUNTS of the texts; the files that it was asked of."""
    asked: list[Path] = []

    def count(file: Path) -> dict[str, int]:
        asked.append(file)
        return COUNTS

    monkeypatch.setattr(text_size, "count", count)
    return asked


@pytest.mark.parametrize(
    ("wishes", "shown", "language"),
    [
        ("", "en", "en"),
        ("zh-TW,zh;q=0.9,en;q=0.8", "en", "zh-hant"),
        ("zh-CN", "en", "zh-hans"),
        ("fr,ja;q=0.5", "en", "ja"),
        ("en-GB,ja", "en", "en"),
        ("ja", "zh-hant", "zh-hant"),
        ("zh-TW", "ja", "ja"),
        ("*", "en", "en"),
        ("\x00nonsense;;q", "en", "en"),
    ],
)
def test_the_readers_language(wishes: str, shown: str, language: str) -> None:
    assert text_size.language_of(wishes, shown) == language


def test_texts_say_the_same_in_each_language_and_are_long_enough() -> None:
    assert set(text_size.TEXTS) == set(model_prices.LANGUAGES)
    for name, text in text_size.TEXTS.items():
        assert len(text) > 150, name
        assert text.isprintable()


def test_a_thousand_characters_cost_their_tokens(acme: Organization, counted: list[Path]) -> None:
    a_price()
    prices = model_prices.of_model(acme, folders.bundled_card(), "ja")
    assert [str(text.language) for text in prices.texts] == [
        "Japanese",
        "English",
        "Traditional Chinese",
        "Simplified Chinese",
    ]
    japanese = prices.texts[0]
    assert japanese.tokens == round(1000 * 200 / len(text_size.TEXTS["ja"]))
    assert japanese.read == Decimal(japanese.tokens) / 1_000_000
    assert japanese.written == 4 * Decimal(japanese.tokens) / 1_000_000


def test_a_revision_is_measured_once(acme: Organization, counted: list[Path]) -> None:
    a_price()
    card = folders.bundled_card()
    for _ in range(3):
        model_prices.of_model(acme, card, "en")
    assert counted == [demo.MODEL_PATH / "tokenizer.json"]


def test_the_page_says_what_it_costs(
    alice_client: Client, acme: Organization, alice: User, counted: list[Path]
) -> None:
    a_price()
    PriceBook.of_house("USD").set_rates(TOKENS, model=demo.MODEL_ID, gpu_type="H100")
    Terms.agree(acme, alice, discount=1_000)
    page = alice_client.get(PAGE, headers={"Accept-Language": "zh-TW"})
    words = page.content.decode()
    assert "on H100" in words and "Your discount of 10 %" in words
    assert words.index("Traditional Chinese") < words.index("Simplified Chinese")
    assert [line.version.gpu_type for line in page.context["prices"].lines] == ["H100", ""]


def test_without_a_price_the_page_says_that_requests_would_be_refused(
    alice_client: Client, acme: Organization, counted: list[Path]
) -> None:
    a_price()
    profile = wallet.profile_of(acme)
    profile.currency = "JPY"
    profile.save()
    assert "There is no price in JPY yet" in alice_client.get(PAGE).content.decode()


def test_a_model_that_is_not_on_this_machine_is_not_measured(
    counted: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dataclasses.replace(env.environment(), home=tmp_path)
    monkeypatch.setattr(text_size, "environment", lambda: here)
    card = ModelCard(source="hub", model_id="Qwen/Qwen3-8B", revision="a" * 40)
    assert text_size.tokens_per_thousand(card) == {}
    snapshot = tmp_path / "models" / "models--Qwen--Qwen3-8B" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text("{}")
    cache.clear()
    assert set(text_size.tokens_per_thousand(card)) == set(COUNTS)
    gone = ModelCard(source="local", model_id="not/here", revision="b" * 40)
    assert text_size.tokens_per_thousand(gone) == {}
    assert text_size.tokens_per_thousand(ModelCard(source="hub", model_id="Qwen/Qwen3-8B")) == {}


def test_without_an_engine_nothing_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dataclasses.replace(env.environment(), home=tmp_path)
    monkeypatch.setattr(text_size, "environment", lambda: here)
    assert text_size.count(demo.MODEL_PATH / "tokenizer.json") is None


@pytest.mark.engine
def test_the_models_own_tokenizer_counts(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dataclasses.replace(env.environment(), home=engines.parent)
    monkeypatch.setattr(text_size, "environment", lambda: here)
    counts = text_size.count(demo.MODEL_PATH / "tokenizer.json")
    assert counts is not None and set(counts) == set(text_size.TEXTS)
    assert 50 < counts["en"] < len(text_size.TEXTS["en"])
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    assert text_size.count(broken) is None
