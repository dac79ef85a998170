"""A real engine, started as the supervisor starts it, and asked as the gateway asks it."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from inference.engines.base import Engine, Launch, Recipe
from inference.node.environments import installed_python

SLOWEST_START = 240.0  # seconds


def interpreter(recipe: Recipe) -> Path:
    """Of the engine's finished environment; the test is skipped without one."""
    engines = Path(os.environ.get("MODELPORT_TEST_ENGINES", "~/.modelport/engines")).expanduser()
    python = installed_python(recipe, engines.parent)
    if python is None:
        pytest.skip(f"{recipe.name} is not here: modelport engine install NAME --variant cpu")
    return python


@contextmanager
def running(engine: Engine, launch: Launch, python: Path, home: Path) -> Iterator[httpx2.Client]:
    """The engine, until it has answered that it is well; ended afterwards."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home)} | engine.env(launch)
    argv = engine.argv(launch, engine.command(str(python)))
    log = home / "engine.log"
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out, env=env) as process:
        transport = httpx2.HTTPTransport(uds=launch.socket)
        with httpx2.Client(transport=transport, base_url="http://engine", timeout=120) as client:
            try:
                _await_health(engine, launch, client, process, log)
                yield client
            finally:
                process.terminate()


def _await_health(
    engine: Engine,
    launch: Launch,
    client: httpx2.Client,
    process: "subprocess.Popen[bytes]",
    log: Path,
) -> None:
    until = time.monotonic() + SLOWEST_START
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        # Not asked before it listens: each attempt would leave a socket behind.
        if Path(launch.socket).exists() and client.get(engine.health_path).status_code == 200:
            return
        time.sleep(0.5)
    pytest.fail(log.read_text()[-3000:])
