"""The database for commands that need it and nothing else."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from portal import embedded
from portal.lib.env import Environment
from portal.up import UpProblem, only_one


class DatabaseProblem(Exception):
    """The embedded database cannot be used; the text says what to do."""


@contextmanager
def reachable(env: Environment) -> Iterator[str]:
    """The database as its owner; the embedded one is started meanwhile where it does not run.

    Raises DatabaseProblem.
    """
    if env.database_url or answers(env.database_owner):
        yield env.database_owner
        return
    if not (env.embedded_postgres_dir / "PG_VERSION").exists():
        raise DatabaseProblem(f"There is no database in {env.home}; `modelport up` makes one.")
    with alone(env) as database:
        yield database


def answers(database: str) -> bool:
    try:
        psycopg.connect(database, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def alone(env: Environment) -> Iterator[str]:
    """The same, and nothing of this home runs beside. Raises DatabaseProblem."""
    try:
        with only_one(env):
            if env.database_url:
                yield env.database_owner
                return
            server = embedded.Postgres(env)
            server.prepare()
            with (env.home / "postgres.log").open("ab") as log:
                process = server.start(log.fileno())
            try:
                server.wait(process)
                yield env.database_owner
            finally:
                process.send_signal(signal.SIGINT)
                process.wait()
    except (UpProblem, embedded.EmbeddedProblem) as problem:
        raise DatabaseProblem(str(problem)) from problem
