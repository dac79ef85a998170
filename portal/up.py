"""`modelport up`: everything of one machine under one roof, and one Ctrl-C to end it all."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

import psutil
from django.conf import settings
from django.core.management import call_command

from portal import embedded, outbox
from portal.lib.env import Environment, EnvironmentProblem
from portal.lib.processes import die_with_parent

DISK_NEEDED = 1_000_000_000  # bytes free, without any engine
START_TIMEOUT = 90.0  # seconds for the web process to answer
LONGEST_BACKOFF = 30.0  # seconds between restarts of a process that keeps dying
# A line of a log that a person should see, as Django, Celery and structlog write it.
GRAVE = re.compile(rb"\[?[-0-9]+ [0-9:.,]+:? (?:(?:ERROR|CRITICAL)[ /]|\[(?:error|critical)\b)")
HEARD_AT_ONCE = 1_000_000  # bytes of a log
SETTLED = 60.0  # seconds after which a process that runs is taken to be well
LOG_BYTES = 20_000_000  # a log longer than this is set aside at the next start

# In the order of starting; they are stopped in this order too, so that requests end first, then
# the makers of work, and the meter ships what the others wrote last.
PROCESSES = ("web", "beat", "worker", "controller", "node", "meter")
PAYMENTS = "payments"  # the stand-in for Stripe, where there is no key; last, as others ask it
GRACE = {"web": 30.0, "worker": 20.0, "node": 60.0}  # seconds; others have 10


class UpProblem(Exception):
    """`up` cannot start or go on; the text says what to do."""


@dataclass
class Child:
    """One process of ours, started again if it dies."""

    name: str
    start: Callable[[int], "subprocess.Popen[bytes]"]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    file: IO[bytes] | None = field(default=None, repr=False)

    def run(self) -> "subprocess.Popen[bytes]":
        if self.file is None:
            self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".old.log"))
            self.file = self.log.open("ab")
        self.process = self.start(self.file.fileno())
        self.started_at = time.monotonic()
        return self.process

    def look(self, now: float) -> None:
        """Start it again where it died, later each time it dies young."""
        if self.process is None:
            if now >= self.retry_at:
                self.run()
            return
        code = self.process.poll()
        if code is None:
            return
        self.failures = 0 if now - self.started_at > SETTLED else self.failures + 1
        delay = min(LONGEST_BACKOFF, 2.0**self.failures)
        self.retry_at = now + delay
        self.process = None
        say(f"{self.name} ended with {code}; starting it again in {delay:.0f} s. See {self.log}")

    def stop(self, by: signal.Signals, grace: float) -> None:
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(by)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.file is not None:
            self.file.close()
            self.file = None


class Listener:
    """What the processes have to say to the person at the terminal: grave lines of their logs, and
    letters that nobody else would deliver. Everything else waits in the logs."""

    def __init__(self, children: list[Child]) -> None:
        self.logs = {child.name: child.log for child in children}
        self.heard = {name: _size(log) for name, log in self.logs.items()}
        self.shown = set(_letters())

    def look(self) -> None:
        try:
            for name, log in self.logs.items():
                self._hear(name, log)
            for letter in _letters():
                if letter not in self.shown:
                    self.shown.add(letter)
                    say(outbox.told(letter))
        except OSError:
            pass  # a file that has just gone; nothing said here is worth ending everything for

    def _hear(self, name: str, log: Path) -> None:
        """One line a look: a process that shouts does not drown the others."""
        size = _size(log)
        if size < self.heard[name]:
            self.heard[name] = 0  # a long log was set aside
        if size == self.heard[name]:
            return
        with log.open("rb") as file:
            file.seek(self.heard[name])
            new = file.read(HEARD_AT_ONCE)
        # The rest of a line comes with the next look, unless it never ends.
        whole = len(new) if len(new) == HEARD_AT_ONCE else new.rfind(b"\n") + 1
        self.heard[name] += whole
        grave = [line for line in new[:whole].splitlines() if GRAVE.match(line)]
        if grave:
            text = grave[0].decode(errors="replace")
            more = f" (and {len(grave) - 1} more in {log})" if len(grave) > 1 else ""
            say(f"{name}: {''.join(c for c in text if c.isprintable())}{more}")


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _letters() -> list[Path]:
    return outbox.letters() if settings.LOCAL_OUTBOX else []


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, flush=True)


def run(env: Environment, *, keep_engines: bool) -> None:
    """Start everything, watch over it, and stop everything when asked to. Raises UpProblem."""
    with ExitStack() as stack:
        stack.enter_context(only_one(env))
        check_disk(env)
        check_port(env)
        stop = stack.enter_context(stop_requested())
        base = stack.enter_context(servers(env))
        prepare(env)
        demo = [payment_demo(env)] if env.payment_demo and not env.stripe_secret_key else []
        children = [_command(env, name, keep_engines) for name in PROCESSES] + demo
        listener = Listener(children)
        stack.callback(stop_all, children)
        for child in children:
            child.run()
        wait_for_web(env, children, stop)
        if not stop:
            greet(env)
        while not stop:
            now = time.monotonic()
            for child in base + children:
                child.look(now)
            listener.look()
            time.sleep(0.2)
        say("Stopping…")


@contextmanager
def only_one(env: Environment) -> Iterator[None]:
    """Hold this home: two on one would fight over its databases."""
    try:
        env.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        env.make_run_dir()
        file = (env.home / "up.lock").open("a+")
    except EnvironmentProblem as problem:
        raise UpProblem(str(problem)) from problem
    except OSError as error:
        raise UpProblem(
            f"{env.home} cannot be written: {error.strerror}. "
            "Choose another folder with MODELPORT_HOME."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpProblem(
                f"Modelport is running already with {env.home}. Stop it first, or start another "
                "with MODELPORT_HOME=/another/folder PORT=8001."
            ) from error
        yield


def check_disk(env: Environment) -> None:
    """The disk has room. Raises UpProblem."""
    free = shutil.disk_usage(env.home).free
    if free < DISK_NEEDED:
        raise UpProblem(
            f"Only {free / 1e9:.1f} GB are free in {env.home}; Modelport needs 1 GB, and 4 GB more "
            "for the CPU engine. Make room, or choose another disk with MODELPORT_HOME."
        )


def check_port(env: Environment) -> None:
    """The port is free. Raises UpProblem."""
    family = socket.AF_INET6 if ":" in env.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((env.host, env.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UpProblem(
                    f"Port {env.port} is taken by {_holder(env.port)}. "
                    f"Choose another one: PORT={env.port + 1} make up"
                ) from error
            if error.errno == errno.EACCES:
                raise UpProblem(
                    f"Port {env.port} needs root. Choose one above 1023, for example PORT=8000."
                ) from error
            raise UpProblem(f"{env.host}:{env.port} cannot be used: {error.strerror}.") from error


def _holder(port: int) -> str:
    """Who listens on this port, as far as the system tells us of other people's processes."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # not allowed, or it has just gone
    return "another program"


@contextmanager
def stop_requested() -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C or SIGTERM has come."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def servers(env: Environment) -> Iterator[list[Child]]:
    """The embedded PostgreSQL and Redis, where no other ones were named."""
    started: list[tuple[Child, signal.Signals]] = []
    try:
        if not env.database_url:
            postgres = embedded.Postgres(env)
            postgres.prepare()
            child = Child("postgres", postgres.start, env.home / "logs" / "postgres.log")
            started.append((child, signal.SIGINT))
            postgres.wait(child.run())
        if not env.redis_url:
            redis = embedded.Redis(env)
            child = Child("redis", redis.start, env.home / "logs" / "redis.log")
            started.append((child, signal.SIGTERM))
            redis.wait(child.run())
        yield [child for child, _ in started]
    except embedded.EmbeddedProblem as error:
        raise UpProblem(f"{error} See {env.home / 'logs'}.") from error
    finally:
        for child, by in reversed(started):
            child.stop(by, 30)


def prepare(env: Environment) -> None:
    """Bring the database and the collected static files up to this version."""
    call_command("migrate", interactive=False, verbosity=0)
    stamp = env.home / "staticroot" / ".collected"
    current = _static_digest()
    if not stamp.exists() or stamp.read_text() != current:
        call_command("collectstatic", interactive=False, verbosity=0, clear=True)
        stamp.write_text(current)


def _static_digest() -> str:
    digest = hashlib.sha256()
    for folder in settings.STATICFILES_DIRS:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path}:{path.stat().st_size}:".encode() + path.read_bytes())
    return digest.hexdigest()


def _command(env: Environment, name: str, keep_engines: bool) -> Child:
    argv = [sys.executable, "-m", "portal.cli", name]
    if name == "node" and not keep_engines:
        argv.append("--stop-engines")
    if name == "web":
        argv.append("--gateway")
    return _child(env, name, argv)


def _child(env: Environment, name: str, argv: list[str]) -> Child:
    def start(output: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the others in order
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )

    return Child(name, start, env.home / "logs" / f"{name}.log")


def payment_demo(env: Environment) -> Child:
    """The stand-in for Stripe, on a port of its own on this machine; the other processes learn of
    it by their environment, as they would of Stripe itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "STRIPE_SECRET_KEY": f"sk_test_{env.secret('payment_demo_key')}",
        "STRIPE_WEBHOOK_SECRET": f"whsec_{env.secret('payment_demo_webhook')}",
        "STRIPE_API_BASE": f"http://127.0.0.1:{port}",
    }
    home = env.home / "payments"
    webhook = f"{_own_address(env)}/stripe/webhook/"
    module = ["-m", "billing.localstripe", "--port", str(port), "--home", str(home)]
    argv = [sys.executable, *module, "--webhook", webhook]
    return _child(env, PAYMENTS, argv)


def _own_address(env: Environment) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(env.host, env.host)  # noqa: S104
    return f"http://{host}:{env.port}"


def wait_for_web(env: Environment, children: list[Child], stop: list[int]) -> None:
    """Until a page can be had. Raises UpProblem if the web process dies or never answers."""
    web = children[0]
    url = f"{_own_address(env)}/healthz"
    deadline = time.monotonic() + START_TIMEOUT
    while not stop:
        if web.process is None or web.process.poll() is not None:
            raise UpProblem(f"The web process did not start. Its last words:\n{_tail(web.log)}")
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  our own address
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise UpProblem(
                    f"The web process does not answer at {url}. See {web.log}"
                ) from None
            time.sleep(0.1)


def greet(env: Environment) -> None:
    """The one line that a new user needs."""
    say(
        f"Modelport is ready: open {env.public_url} and choose “Sign up” to make the first account."
    )


def stop_all(children: list[Child]) -> None:
    """Each politely, in order; none is left running."""
    for child in children:
        child.stop(signal.SIGTERM, GRACE.get(child.name, 10.0))


def _tail(log: Path, lines: int = 15) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
