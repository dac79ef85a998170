"""Deploys cut no streams (P10): the short forms of what `make chaos` does with 1,000."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.inference.provoking import installed

OURS = {"DATABASE_URL", "REDIS_URL", "MODELPORT_HOME"}  # it has servers of its own


def roll(*options: str, within: float) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if name not in OURS}
    command = [sys.executable, "-m", "tests.rolling", *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=within)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["engine_unchanged"]
    assert found["broken"] == found["unequal"] == 0
    assert min(found["under_way"]) >= 0.9 * found["streams"]
    assert found["whole"] > found["streams"]
    return found


@pytest.mark.timeout(900)  # 60 s on a quiet machine, 200 seen on a busy one
def test_a_deploy_under_50_streams_cuts_none() -> None:
    found = roll("--streams", "50", "--deploys", "1", "--delay", "0.2", within=880)
    assert found["deploys"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1900)
@pytest.mark.skipif(installed() is None, reason="modelport engine install vllm")
def test_deploys_under_streams_of_a_real_engine_cut_none() -> None:
    found = roll("--streams", "12", "--deploys", "3", "--real", within=1800)
    assert found["engine_processes"] >= 3
