"""`modelport metrics`: a machine with gateways and without pages is watched, too."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def serving(home: Path, **given: str) -> Iterator[httpx2.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (home / "journal").mkdir(parents=True)
    away = {"DATABASE_URL": "postgresql:///none?host=/nonexistent"}  # it needs none
    process = subprocess.Popen(
        [sys.executable, "-m", "portal.cli", "metrics", "--port", str(port)],
        cwd=ROOT,
        env=os.environ | away | {"MODELPORT_HOME": str(home)} | given,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    client.get("/")
                    break
                except httpx2.ConnectError:
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait()


def test_programs_on_this_machine_may_read_them(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as client:
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert "modelport_gateway_processes 0.0" in answer.text
        assert "modelport_journal_disk_free_bytes" in answer.text
        assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/").status_code == 404


def test_with_a_token_whoever_brings_it(tmp_path: Path) -> None:
    with serving(tmp_path / "home", METRICS_TOKEN="a-long-secret") as client:
        assert client.get("/metrics").status_code == 403
        brought = {"Host": "gpu2.example:9464", "Authorization": "Bearer a-long-secret"}
        assert client.get("/metrics", headers=brought).status_code == 200
