"""What an engine says of itself, read from its own text."""

import os
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from msgspec.structs import replace

from inference.engines.vllm import ENGINE
from inference.histograms import count, difference, percentile
from inference.node.figures import Load, LoadWatch, idle_since, parse, parse_gpu_figures
from inference.node.processes import identify
from inference.provisioners.base import Figures, GpuFigures, Histogram, Observed, Phase
from tests.inference.node.rig import Rig, wait_for, wait_until

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=5)
TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="acme"} 3.0
vllm:num_requests_waiting{engine="0",model_name="acme"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="acme"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="acme"} 400.0
vllm:prefix_cache_queries_created{engine="0",model_name="acme"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="acme"} 100.0
vllm:prompt_tokens_total{engine="0",model_name="acme"} 1.5e+03
vllm:generation_tokens_total{engine="0",model_name="acme"} 700.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="acme"} 8.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="acme"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="acme"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.5",model_name="acme"} 9.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="acme"} 10.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="acme"} 10.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="acme"} 2.5
process_resident_memory_bytes 5.0e+08
"""
QUIET = Figures(process="one", prompt_tokens=100)


def read(text: str) -> Figures:
    return parse(text, ENGINE.metric_names, "one", Load())


def test_counters_of_all_labels_are_added_up() -> None:
    said = read(TEXT)

    assert (said.prompt_tokens, said.completion_tokens, said.requests) == (1500, 700, 10)
    assert (said.prefix_queries, said.prefix_hits) == (400, 100)
    assert (said.running, said.waiting, said.kv_cache_usage) == (3, 1, 0.25)


def test_each_bucket_counts_only_what_is_in_it() -> None:
    assert read(TEXT).ttft == Histogram([0.1, 0.5], [4, 5, 1], 2.5)


def test_what_an_engine_does_not_say_stays_unsaid() -> None:
    said = read("")

    assert said.kv_cache_usage is None and said.ttft is None and said.requests == 0


@pytest.mark.parametrize(
    ("now", "since", "expected"),
    [
        (QUIET, NOON, NOON),
        (QUIET, None, LATER),
        (replace(QUIET, running=1), NOON, None),
        (replace(QUIET, waiting=1), NOON, None),
        (replace(QUIET, prompt_tokens=101), NOON, LATER),
        (replace(QUIET, process="two"), NOON, LATER),
    ],
    ids=["still", "just now", "computes", "waits", "was quick", "another process"],
)
def test_it_is_idle_since_it_was_last_seen_to_do_something(
    now: Figures, since: datetime | None, expected: datetime | None
) -> None:
    assert idle_since(QUIET, now, since, LATER) == expected


def test_the_first_look_begins_the_idle_time() -> None:
    assert idle_since(None, QUIET, None, NOON) == NOON


def test_gpus_that_do_not_say_are_left_out() -> None:
    said = "0, 40000, 81559, 97\n1, 12, 81559, [N/A]\n"

    assert parse_gpu_figures(said) == [GpuFigures(0, 40000 << 20, 81559 << 20, 0.97)]


def test_processor_time_and_memory_of_its_processes_are_told() -> None:
    load = LoadWatch().look(identify(os.getpid()), [])

    assert load.cpu_seconds is not None and load.cpu_seconds > 0
    assert load.memory_bytes is not None and load.memory_bytes > 1 << 20


def test_a_process_that_has_ended_takes_nothing_that_is_known() -> None:
    assert LoadWatch().look(None, []) == Load()


def test_a_restarted_supervisor_still_knows_since_when_an_engine_rests(node: Rig) -> None:
    handle = node.provisioner.ensure(node.spec())
    wait_for(node.provisioner, handle, Phase.READY)
    wait_until(lambda: node.provisioner.observe(handle).idle_since is not None)
    before = node.provisioner.observe(handle)
    assert before.figures is not None and before.figures.prompt_tokens > 0, "the probe's"

    node.kill()
    node.start()
    wait_for(node.provisioner, handle, Phase.READY)

    assert node.provisioner.observe(handle).idle_since == before.idle_since
    wait_until(lambda: _memory(node.provisioner.observe(handle).figures))


def test_what_a_request_took_is_counted_by_the_engine_and_told(node: Rig) -> None:
    handle = node.provisioner.ensure(node.spec())
    address = wait_for(node.provisioner, handle, Phase.READY).address
    wait_until(lambda: node.provisioner.observe(handle).figures is not None)
    before = node.provisioner.observe(handle)

    call(address.removeprefix("unix:"), "[[fake first=0.3 tokens=5]]")
    wait_until(lambda: _requests(node.provisioner.observe(handle)) == _requests(before) + 1)

    after = node.provisioner.observe(handle)
    assert before.figures is not None and after.figures is not None
    assert after.figures.completion_tokens == before.figures.completion_tokens + 5
    new = difference(before.figures.ttft, after.figures.ttft)
    assert count(new) == 1 and 0.25 <= (percentile(new, 0.5) or 0) <= 1.0
    assert after.idle_since is not None and before.idle_since is not None
    assert after.idle_since > before.idle_since, "it has just computed"


def call(socket: str, prompt: str) -> None:
    transport = httpx2.HTTPTransport(uds=socket)
    with httpx2.Client(transport=transport, base_url="http://engine", timeout=20) as client:
        body = {"model": "acme-chat", "prompt": prompt, "max_tokens": 100}
        assert client.post("/v1/completions", json=body).status_code == 200


def _requests(seen: Observed) -> int:
    return seen.figures.requests if seen.figures else 0


def _memory(figures: Figures | None) -> bool:
    return bool(figures and figures.memory_bytes)
