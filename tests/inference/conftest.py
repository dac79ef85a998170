"""A hub of our own in place of the real one, for every test that asks for `hub`."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from inference import hub as hub_module
from portal.lib.env import environment
from tests.fakes.hub import FakeHub


@pytest.fixture
def own_cache(settings: pytest.FixtureRequest) -> None:
    settings.CACHES = {  # type: ignore[attr-defined]
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": uuid4().hex,
        }
    }


@pytest.fixture
def model_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An operator's folder of models."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("MODELPORT_MODELS", str(folder))
    environment.cache_clear()
    yield folder
    monkeypatch.undo()
    environment.cache_clear()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        environment.cache_clear()
        hub_module.forget_failures()
        yield fake
    monkeypatch.undo()
    environment.cache_clear()
    hub_module.forget_failures()
