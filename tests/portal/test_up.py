"""`modelport up`, as a person runs it: it starts, says what is in its way, and leaves nothing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SERVERS = {"DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mp-up-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def up(home: Path, port: int) -> "subprocess.Popen[str]":
    env = {k: v for k, v in os.environ.items() if k not in SERVERS and "PYTEST" not in k}
    env |= {"MODELPORT_HOME": str(home), "PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "portal.cli", "up"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Modelport is ready" in line:
            return line
    raise AssertionError("".join(said))


def left_over(home: Path) -> list[str]:
    """Command lines of processes that belong to this home."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        environ, cmdline = process.info["environ"] or {}, process.info["cmdline"] or []
        if environ.get("MODELPORT_HOME") == str(home) or str(home) in " ".join(cmdline):
            found.append(" ".join(cmdline))
    return found


@pytest.mark.timeout(180)
def test_it_starts_recovers_and_leaves_nothing(home: Path) -> None:
    port = free_port()
    process = up(home, port)
    try:
        assert f"http://localhost:{port}" in until_ready(process)
        with urllib.request.urlopen(f"http://localhost:{port}/healthz") as answer:  # noqa: S310
            assert answer.status == 200

        second = up(home, free_port())
        assert "running already" in second.communicate()[0]
        assert second.returncode == 1

        # Killed without a word: its children go by themselves, and the next start goes well.
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 30
        while left_over(home) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left_over(home) == []
        process = up(home, port)
        until_ready(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert left_over(home) == []


def test_a_busy_port_is_named_with_the_remedy(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = up(home, port)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Port {port} is taken by" in said
    assert f"(process {os.getpid()})" in said
    assert f"PORT={port + 1}" in said


def test_a_home_that_cannot_be_written_is_named(home: Path) -> None:
    blocked = home / "file"
    blocked.write_text("")
    process = up(blocked / "home", free_port())
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "MODELPORT_HOME" in said or "Not a directory" in said
