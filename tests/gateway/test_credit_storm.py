"""The short form of `python -m tests.storm.credit` (P4, and P7 for who has credit)."""

import json
import os
import subprocess
import sys

import pytest

OURS = {"DATABASE_URL", "REDIS_URL", "MODELPORT_HOME"}  # the storm has servers of its own


@pytest.mark.timeout(240)  # a busy machine takes its time
def test_a_wallet_is_never_overdrawn_and_a_full_one_outlasts_the_database():
    environ = {name: value for name, value in os.environ.items() if name not in OURS}
    storm = [sys.executable, "-m", "tests.storm.credit", "--clients", "8", "--frozen", "3"]
    done = subprocess.run(storm, env=environ, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["overdrawn"] == found["noticed"] == found["unbalanced"] == 0
    assert found["leases_spent_beyond"] == found["leases_open"] == 0
    assert found["answered_in_freeze"]["rich"] > 10
    assert found["seen"]["poor"]["insufficient_quota"] > 0
