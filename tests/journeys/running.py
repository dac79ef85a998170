"""A whole Modelport for a test to talk to: `modelport up`, as a person runs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
FAKE_ENGINE = f"{sys.executable} -m tests.fakes.engine"
PATIENCE = 300.0  # seconds until it is up; 10 on a quiet machine, more than 120 on a very busy one
# What would make the child use the test run's own servers, or think it is a test.
NOT_PASSED_ON = {"DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}


@dataclass
class Running:
    home: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        return environ(self.home, self.port)

    def modelport(self, *arguments: str) -> str:
        """Run another command of this installation; what it prints."""
        argv = [sys.executable, "-m", "portal.cli", *arguments]
        return subprocess.run(
            argv, env=self.environ, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout

    def code_for(self, email: str) -> str:
        """The code in the newest letter to this address."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for path in sorted((self.home / "mail").glob("*.eml"), reverse=True):
                letter = message_from_bytes(path.read_bytes(), policy=policy.default)
                body = letter.get_body(("plain",))
                if str(letter["To"]) == email and body is not None:
                    lines = [line.strip() for line in body.get_content().splitlines()]
                    codes = [line for line in lines if is_code(line)]
                    if codes:
                        return codes[0]
            time.sleep(0.1)
        raise AssertionError(f"no code was mailed to {email}")

    def stop(self) -> None:
        """Ctrl-C; afterwards nothing of it may be running."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)
        assert self.left_over() == []

    def left_over(self) -> list[str]:
        """Command lines of processes that belong to this home."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            words = process.info["cmdline"] or []
            theirs = (process.info["environ"] or {}).get("MODELPORT_HOME")
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and (theirs == str(self.home) or str(self.home) in " ".join(words)):
                found.append(" ".join(words))
        return found


def is_code(line: str) -> bool:
    return 6 <= len(line) <= 9 and line.replace("-", "").isalnum() and line.upper() == line


def environ(home: Path, port: int, **more: str) -> dict[str, str]:
    """The environment of a person who starts it in this home."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_PASSED_ON and not name.startswith("PYTEST")
    }
    return kept | {"MODELPORT_HOME": str(home), "PORT": str(port)} | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(engines: Path | None = None) -> Running:
    """Start it with the fake engine, or with the real one whose environment is in `engines`."""
    home, port = Path(tempfile.mkdtemp(prefix="mpj-")), free_port()
    more = {}
    if engines is None:
        more["MODELPORT_VLLM_COMMAND"] = FAKE_ENGINE
    else:
        (home / "engines").symlink_to(engines)
    log = (home / "up.log").open("wb")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "portal.cli", "up"],
            env=environ(home, port, **more),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    running = Running(home, port, process)
    deadline = time.monotonic() + PATIENCE
    while "Modelport is ready" not in (said := (home / "up.log").read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"modelport up did not start: {said}")
        time.sleep(0.1)
    return running


def clean_up(running: Running) -> None:
    try:
        running.stop()
    finally:
        shutil.rmtree(running.home, ignore_errors=True)
