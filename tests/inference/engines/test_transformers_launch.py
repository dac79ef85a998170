"""What the launcher adds to the server, without the server."""

import asyncio
import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from inference.engines import ENGINES
from inference.node.figures import Load, parse

ENGINE = ENGINES["transformers"]
NEEDED = {
    "transformers": {"__version__": "5.0"},
    "transformers.cli": {},
    "transformers.cli.serve": {"Serve": object},
    "transformers.cli.serving": {},
    "transformers.cli.serving.utils": {"BaseHandler": object},
}


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The launcher, which is at home in another environment."""
    for name, content in NEEDED.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "inference.engines.transformers_launch", raising=False)
    return importlib.import_module("inference.engines.transformers_launch")


async def asked(app: Any, path: str) -> bytes:
    said: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message.get("body", b""))

    await app({"type": "http", "path": path}, None, send)
    return b"".join(said)


async def load(app: Any) -> tuple[int, int]:
    """Requests that run and that have ended, as the node reads them."""
    text = (await asked(app, ENGINE.metrics_path)).decode()
    figures = parse(text, ENGINE.metric_names, "one", Load())
    return figures.running, figures.requests


async def test_it_counts_the_requests_it_has_and_had(launch: ModuleType) -> None:
    free = asyncio.Event()

    async def server(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/completions":
            await free.wait()
        if scope["path"] == "/v1/responses":
            raise ConnectionResetError

    app = launch.Housed(server, "acme-chat")
    assert await load(app) == (0, 0)
    pending = asyncio.create_task(asked(app, "/v1/completions"))
    await asyncio.sleep(0)
    assert await load(app) == (1, 0)
    free.set()
    await pending
    assert await load(app) == (0, 1)


async def test_a_request_that_breaks_has_ended_and_health_is_none(launch: ModuleType) -> None:
    async def server(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/health":
            raise ConnectionResetError

    app = launch.Housed(server, "acme-chat")
    with pytest.raises(ConnectionResetError):
        await asked(app, "/v1/responses")
    await asked(app, "/health")
    await asked(app, "/v1/models")
    assert await load(app) == (0, 1)
