"""The environment: defaults that work, and a sentence for every wrong value."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from portal.lib.env import SOCKET_PATH_LIMIT, EnvironmentProblem, read


def test_a_bare_environment_is_enough() -> None:
    env = read({"HOME": "/nowhere"})
    assert env.port == 8000
    assert env.public_url == "http://localhost:8000"
    assert env.gateway_url == "http://127.0.0.1:8000"
    assert env.database.startswith("postgresql://modelport@/modelport?host=/")
    assert env.database_owner == env.database.replace("modelport@", "postgres@")
    assert env.redis.startswith("unix:///")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "0", "1 to 65535"),
        ("PORT", "eighty", "1 to 65535"),
        ("PORT", "70000", "1 to 65535"),
        ("DEBUG", "perhaps", "write 1 or 0"),
        ("DATABASE_URL", "mysql://x", "postgresql"),
        ("REDIS_URL", "http://x", "redis"),
        ("MODELPORT_URL", "ftp://x", "http"),
        ("HF_ENDPOINT", "huggingface.co", "http"),
        ("MODELPORT_MODELS_KEPT_DAYS", "-1", "number of days"),
        ("MODELPORT_MODELS_KEPT_DAYS", "a month", "number of days"),
        ("MODELPORT_CURRENCY", "dollars", "ISO 4217"),
        ("GPU_HOUR_COST", "much", "write an amount"),
        ("GPU_HOUR_COST", "-1", "write an amount"),
        ("GPU_HOUR_COST", "inf", "write an amount"),
        ("EXTERNAL_PRICES", "/no/such.toml", "no such file"),
        ("STRIPE_SECRET_KEY", "pk_test_x", "must begin with"),
        ("STRIPE_SECRET_KEY", "sk_live_x", "MODELPORT_URL=https"),
        ("STRIPE_WEBHOOK_SECRET", "secret", "whsec_"),
        ("STRIPE_API_BASE", "https://example.com", "only name this machine"),
        ("STRIPE_TAX", "perhaps", "write 1 or 0"),
        ("PAYMENT_DEMO", "perhaps", "write 1 or 0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str, words: str) -> None:
    with pytest.raises(EnvironmentProblem, match=name) as refused:
        read({name: value})
    assert words in str(refused.value)


def test_money_moves_only_where_all_is_set_up_for_it() -> None:
    live = {"STRIPE_SECRET_KEY": "sk_live_x", "MODELPORT_URL": "https://models.example"}
    with pytest.raises(EnvironmentProblem, match="STRIPE_WEBHOOK_SECRET"):
        read(live)
    live |= {"STRIPE_WEBHOOK_SECRET": "whsec_old, whsec_new"}
    env = read(live)
    assert env.stripe_is_live and env.payment_mode == "live"
    assert env.stripe_webhook_secrets == ("whsec_old", "whsec_new")
    assert "sk_live_x" not in repr(env) and "whsec" not in repr(env)
    with pytest.raises(EnvironmentProblem, match="live one") as refused:
        read(live | {"STRIPE_API_BASE": "http://127.0.0.1:12111"})
    assert "sk_live_x" not in str(refused.value)


def test_the_payment_demo_is_for_this_machines_own_browser() -> None:
    assert read({}).payment_demo
    assert not read({"MODELPORT_URL": "http://models.example"}).payment_demo
    assert not read({"PAYMENT_DEMO": "0"}).payment_demo
    assert read({}).payment_mode == ""
    assert read({"STRIPE_SECRET_KEY": "rk_test_x"}).payment_mode == "test"


@pytest.mark.parametrize("value", ["VAT", "5", "0 VAT", "101 VAT", "1.2345 VAT", "NaN VAT"])
def test_a_tax_is_a_rate_and_a_name(value: str) -> None:
    assert read({"INVOICE_TAX": "7.7 MWST"}).invoice_tax == (Decimal("7.7"), "MWST")
    assert read({}).invoice_tax == (0, "")
    with pytest.raises(EnvironmentProblem, match="INVOICE_TAX"):
        read({"INVOICE_TAX": value})


def test_given_servers_take_the_place_of_embedded_ones() -> None:
    env = read({"DATABASE_URL": "postgresql://db/x", "REDIS_URL": "redis://cache/1"})
    assert (env.database, env.redis) == ("postgresql://db/x", "redis://cache/1")
    assert env.database_owner == env.database


def test_sockets_stay_short_however_deep_the_home(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    env = read({"MODELPORT_HOME": str(deep)})
    longest = env.run_dir / "instances" / ("x" * 36) / "engine.sock"
    assert len(os.fsencode(longest)) < SOCKET_PATH_LIMIT


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    env = read({"MODELPORT_HOME": str(tmp_path)})
    first = env.secret("a_test_secret")
    assert env.secret("a_test_secret") == first
    assert len(first) > 40
    assert (tmp_path / "secrets" / "a_test_secret").stat().st_mode & 0o077 == 0


def test_a_secret_may_come_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST_SECRET", "given")
    assert read({"MODELPORT_HOME": str(tmp_path)}).secret("a_test_secret") == "given"
    assert not (tmp_path / "secrets").exists()
