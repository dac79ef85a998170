"""Every failure that can be provoked here, with the real engine: is it told from the live log?"""

from pathlib import Path

import pytest

from inference.doctor import diagnose
from tests.inference.doctor_logs import REAL
from tests.inference.provoking import PROVOCATIONS, installed, provoke

PYTHON = installed()


@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.skipif(PYTHON is None, reason="modelport engine install vllm")
@pytest.mark.parametrize("name", REAL)
def test_a_provoked_failure_is_told_from_the_log(name: str, tmp_path: Path) -> None:
    assert PYTHON is not None
    _code, expected, facts = REAL[name]

    code, log = provoke(name, PYTHON, tmp_path)

    found = diagnose(code, log[-65_536:].splitlines())
    assert found.code == expected
    assert facts.items() <= dict(found.facts).items()


def test_every_log_kept_can_be_provoked_again() -> None:
    assert set(REAL) <= set(PROVOCATIONS)
