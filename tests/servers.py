"""One PostgreSQL, one Redis and one home for a whole test run, up before Django reads its settings.

Loaded by `-p tests.servers`. Workers of xdist share the PostgreSQL of the controller, in a database
of their own each, and have a Redis and a home of their own. They are the servers of `modelport up`
and children of their process: a run that is killed leaves none behind.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from portal.embedded import Postgres, Redis
from portal.lib.env import Environment, read

HASTE = "\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"  # nothing here is kept
OURS = "MODELPORT_TEST_REDIS"  # the Redis that a run has started, not one that was given to it

_home: Path | None = None
_started: list[tuple["subprocess.Popen[bytes]", signal.Signals]] = []


def _start() -> None:
    global _home
    _home = Path(tempfile.mkdtemp(prefix="mp-"))
    os.environ["MODELPORT_HOME"] = str(_home)
    (_home / "staticroot").mkdir()  # whitenoise looks for it
    env = read({"MODELPORT_HOME": str(_home)})
    if "DATABASE_URL" not in os.environ:
        _start_postgres(env)
        os.environ["DATABASE_URL"] = env.database_owner  # who may make databases
    if "REDIS_URL" not in os.environ or os.environ["REDIS_URL"] == os.environ.get(OURS):
        _start_redis(env)
        os.environ["REDIS_URL"] = os.environ[OURS] = env.redis


def _start_postgres(env: Environment) -> None:
    server = Postgres(env)
    server.prepare()
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(HASTE)
    with (env.home / "postgres.log").open("wb") as log:
        process = server.start(log.fileno())
    _started.append((process, signal.SIGINT))  # its fast shutdown
    server.wait(process)


def _start_redis(env: Environment) -> None:
    server = Redis(env)
    process = server.start(subprocess.DEVNULL)
    _started.append((process, signal.SIGTERM))
    server.wait(process)


def _stop() -> None:
    while _started:
        process, by = _started.pop()
        process.send_signal(by)
        process.wait()
    if _home is not None:
        shutil.rmtree(_home, ignore_errors=True)


try:
    _start()
except BaseException:  # whatever it was: no configuration of pytest will end what has begun
    _stop()
    raise


def pytest_unconfigure(config: pytest.Config) -> None:
    _stop()
