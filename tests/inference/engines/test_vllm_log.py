"""What is read back from an engine's log, in the words that vLLM's own source prints."""

import pytest

from inference.engines.vllm import ENGINE
from inference.engines.vllm_log import measured
from inference.measured import Measured

GPU = """\
INFO [gpu_model_runner.py:5150] Model loading took 14.99 GiB memory and 3.412000 seconds
INFO [gpu_worker.py:760] Available KV cache memory: 54.21 GiB
INFO [kv_cache_utils.py:2328] GPU KV cache size: 444,080 tokens, Maximum concurrency for 131,072 \
tokens per request: 3.39x
""".splitlines()
CPU = """\
INFO [cpu_worker.py:260] Explicitly set (1.0/15.62) GiB for KV cache on node 0.
INFO [kv_cache_utils.py:2328] CPU KV cache size: 1,048,576 tokens, Maximum concurrency for 1,024 \
tokens per request: 1024.00x
""".splitlines()


def test_a_gpu_start_says_what_weights_and_cache_took() -> None:
    assert ENGINE.measured(GPU) == Measured(
        kv_cache_tokens=444_080,
        max_concurrency=3.39,
        weight_bytes=int(14.99 * 2**30),
        kv_cache_bytes=int(54.21 * 2**30),
    )


def test_a_cpu_start_does_not_say_what_the_weights_took() -> None:
    assert measured(CPU) == Measured(
        kv_cache_tokens=1_048_576, max_concurrency=1024.0, kv_cache_bytes=2**30
    )


def test_older_versions_say_it_in_two_lines() -> None:
    lines = [
        "GPU KV cache size: 444,080 tokens",
        "Maximum concurrency for 131,072 tokens per request: 3.39x",
    ]
    assert measured(lines) == Measured(kv_cache_tokens=444_080, max_concurrency=3.39)


@pytest.mark.parametrize(
    "line", ["", "KV cache size: tokens", "Model loading took nan GiB", "took 1.5 GiB", "9" * 9999]
)
def test_other_lines_say_nothing(line: str) -> None:
    assert measured([line]) == Measured()
