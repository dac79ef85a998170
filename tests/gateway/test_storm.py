"""The short form of `make chaos` (P1, P2, P3)."""

import json
import os
import subprocess
import sys

import pytest

OURS = {"DATABASE_URL", "REDIS_URL", "MODELPORT_HOME"}  # the storm has servers of its own


@pytest.mark.timeout(240)  # a busy machine takes its time
def test_nothing_is_lost_double_or_overcharged_under_kills():
    environ = {name: value for name, value in os.environ.items() if name not in OURS}
    storm = [sys.executable, "-m", "tests.storm", "--requests", "300", "--kills", "5"]
    done = subprocess.run(storm, env=environ, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 5
    assert found["lost"] == found["double"] == found["overcharged"] == found["unequal"] == 0
    assert found["whole"] > 50
