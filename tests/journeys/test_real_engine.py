"""The main job on a real vLLM: from sign-up to a deleted instance, and the count agrees."""

import asyncio
import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, OpenAI
from playwright.sync_api import Page, expect

from portal.lib.env import read
from tests.gateway import calls
from tests.journeys import running, steps
from tests.journeys.running import Running

pytestmark = [pytest.mark.engine, pytest.mark.journey, pytest.mark.timeout(600)]

START_TIMEOUT = 300  # seconds; 30 on a quiet machine, 130 seen on a busy one
SETTLE = 15  # seconds for the last journal record to become a row


@pytest.fixture
def portal(engines: Path) -> Iterator[Running]:
    started = running.start(engines)
    yield started
    running.clean_up(started)


def database(portal: Running) -> str:
    return read({"MODELPORT_HOME": str(portal.home)}).database


def replica(portal: Running) -> dict[str, object]:
    query = "SELECT address, probe_prompt_tokens, probe_completion_tokens FROM inference_replica"
    with psycopg.connect(database(portal)) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return {"socket": row[0].removeprefix("unix:"), "prompt": row[1], "completion": row[2]}


def engine(portal: Running) -> httpx2.Client:
    transport = httpx2.HTTPTransport(uds=str(replica(portal)["socket"]))
    return httpx2.Client(transport=transport, base_url="http://engine", timeout=60)


def counters(portal: Running) -> dict[str, int]:
    """The engine's own counts, less what the readiness probe used."""
    with engine(portal) as client:
        text = client.get("/metrics").text
    probe = replica(portal)
    totals = {}
    for name, metric in (("prompt", "prompt_tokens"), ("completion", "generation_tokens")):
        lines = re.findall(rf"^vllm:{metric}_total\{{[^}}]*\}} ([0-9.e+]+)$", text, re.MULTILINE)
        totals[name] = int(sum(float(line) for line in lines)) - int(str(probe[name]))
    return totals


def streamed(client: OpenAI, text: str) -> tuple[str, tuple[int, int], str]:
    """A streamed completion: its text, (prompt, completion) tokens as told, its request id."""
    answer = client.chat.completions.with_raw_response.create(
        model="demo",
        messages=[{"role": "user", "content": text}],
        stream=True,
        stream_options={"include_usage": True},
    )
    parts, told = [], (0, 0)
    for chunk in answer.parse():
        parts += [choice.delta.content or "" for choice in chunk.choices]
        if chunk.usage:
            told = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
    return "".join(parts), told, answer.headers["x-request-id"]


def rows(page: Page, portal: Running, org: str, count: int) -> list[dict[str, str]]:
    """The exported usage, once it has this many rows."""
    deadline = time.monotonic() + SETTLE
    while True:
        text = page.request.get(f"{portal.url}/o/{org}/usage/export/").text()
        found = list(csv.DictReader(io.StringIO(text)))
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def shape(value: object) -> object:
    """The keys and kinds of a JSON value, without what it says."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "null" if value is None else type(value).__name__


def wire(base: dict[str, object], client: httpx2.Client) -> dict[str, object]:
    """How an engine writes: a stream's chunks, a whole answer, errors."""
    ask = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    stream = client.post("/v1/chat/completions", json=ask | {"stream": True} | base).text
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    whole = client.post("/v1/chat/completions", json=ask | base).json()
    wrong = client.post("/v1/chat/completions", json=ask | {"model": "nobody"})
    return {
        "last event": events[-1],
        "usage on each chunk": all("usage" in chunk for chunk in chunks),
        "last chunk": shape(chunks[-1]["usage"]["prompt_tokens"]),
        "last chunk's choices": chunks[-1]["choices"],
        "usage is last": all(re.search(r'"usage":\{[^\n]*\}\}$', e) for e in events[:-1]),
        "role comes first": chunks[0]["choices"][0]["delta"]["role"],
        "answer": sorted(shape(whole)["usage"]),  # type: ignore[index]
        "finish": whole["choices"][0]["finish_reason"],
        "error": (wrong.status_code, sorted(wrong.json()["error"])),
    }


async def compare(portal: Running, key: str) -> None:
    """Every call, straight to the engine and through the gateway: the answers are the same."""
    socket = str(replica(portal)["socket"])

    def straight() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=socket), timeout=60)

    given = {"api_key": "none", "max_retries": 0}
    ours = AsyncOpenAI(base_url=f"{portal.url}/v1", **given | {"api_key": key})
    theirs = AsyncOpenAI(base_url="http://engine/v1", http_client=straight(), **given)
    async with ours, theirs:
        for name in calls.CALLS:
            await calls.whole(theirs, name)  # so that both meet the same cache
            assert await calls.whole(ours, name) == await calls.whole(theirs, name), name
        for name in calls.STREAMS:
            told = [without_running_usage(event) for event in await calls.streamed(theirs, name)]
            if name != "chat with usage" and told[-1].get("choices") == []:
                del told[-1]  # the engine is told to count for us
            assert folded(await calls.streamed(ours, name)) == folded(told), name
        for call in calls.ERRORS.values():
            expected = await calls.refusal(theirs, call)
            calls.assert_same_error(await calls.refusal(ours, call), expected)
    our = AsyncAnthropic(base_url=portal.url, **given | {"api_key": key})
    their = AsyncAnthropic(base_url="http://engine", http_client=straight(), **given)
    async with our, their:
        assert await calls.messages(our) == await calls.messages(their)


def without_running_usage(event: dict[str, Any]) -> dict[str, Any]:
    """A chunk as one gets it who did not ask for usage on each."""
    return {
        name: value for name, value in event.items() if name != "usage" or not event.get("choices")
    }


def folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pieces of text put together: how many tokens an engine puts into one is a matter of time."""
    out: list[dict[str, Any]] = []
    for event in events:
        event.pop("sequence_number", None)
        last = out[-1] if out else {}
        if event.get("type") == "response.output_text.delta" == last.get("type"):
            last["delta"] += event["delta"]
        elif (one := piece(event)) and (other := piece(last)):
            other["finish_reason"] = one["finish_reason"]
            if "delta" in one:
                other["delta"]["content"] += one["delta"].get("content") or ""
            else:
                other["text"] += one["text"]
        else:
            out.append(event)
    return out


def piece(event: dict[str, Any]) -> dict[str, Any] | None:
    """The choice of a chunk that holds a piece of text and nothing else."""
    for choice in event.get("choices") or ():
        if "text" in choice or set(choice["delta"]) <= {"content"}:
            return choice  # type: ignore[no-any-return]
    return None


def test_the_main_job(page: Page, portal: Running, shoot: Callable[[Page, str], None]) -> None:
    steps.sign_up(page, portal, "alice@acme.example", "Acme")
    steps.deploy_demo(page)
    steps.wait_until_ready(page, START_TIMEOUT)
    shoot(page, "instance-light-1440")
    instance_page = page.url
    client = steps.sdk(portal, steps.make_key(page))

    text, told, request_id = streamed(client, "What is Modelport?")
    assert len(text) > 20
    assert told[0] > 0
    assert told[1] > 0
    whole = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}]
    )
    assert whole.usage

    page.goto(f"{portal.url}/o/acme/playground/")
    steps.chat(page, "What is Modelport?")
    said = page.locator("#thread article").last.locator("[data-md]").inner_text()
    assert len(said) > 20
    shoot(page, "playground-light-1440")

    metered = rows(page, portal, "acme", 3)
    assert len(metered) == 3
    by_id = {row["request_id"]: row for row in metered}
    assert request_id in by_id
    streamed_row = by_id[request_id]
    assert (
        int(streamed_row["prompt_tokens"]),
        int(streamed_row["completion_tokens"]),
    ) == told
    sums = {
        name: sum(int(row[f"{name}_tokens"]) for row in metered)
        for name in ("prompt", "completion")
    }
    assert sums == counters(portal)
    assert {row["outcome"] for row in metered} == {"completed"}
    page.goto(f"{portal.url}/o/acme/usage/")
    shoot(page, "usage-light-1440")

    # In another thread: this one has the browser's loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, compare(portal, client.api_key)).result()

    # The fake engine of the fast tests writes as the real one does.
    with engine(portal) as real:
        as_real = wire({}, real)
    with fake_engine(portal.home) as fake:
        assert wire({}, fake) == as_real

    page.goto(instance_page)
    steps.delete_instance(page, "demo")
    expect(page.get_by_text("No instance yet")).to_be_visible(timeout=60_000)
    deadline = time.monotonic() + 30
    while engine_remains(portal) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert engine_remains(portal) == []


def engine_remains(portal: Running) -> list[str]:
    """Processes, sockets and files of engines."""
    env = read({"MODELPORT_HOME": str(portal.home)})
    files = [
        str(path)
        for folder in (env.home / "instances", env.run_dir / "instances")
        for path in folder.glob("*")
    ]
    return files + [line for line in portal.left_over() if "vllm" in line]


class fake_engine:  # noqa: N801  reads as a function
    """The fake engine on a socket of its own, with the flags that ours get."""

    def __init__(self, home: Path) -> None:
        self.socket = home / "fake.sock"

    def __enter__(self) -> httpx2.Client:
        import subprocess  # noqa: PLC0415
        import sys  # noqa: PLC0415

        flags = ["--enable-force-include-usage", "--enable-prompt-tokens-details"]
        flags += ["--enable-request-id-headers", "--served-model-name", "demo", "--model", "demo"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.engine", "--uds", str(self.socket), *flags],
            cwd=running.ROOT,
        )
        while not self.socket.exists():
            time.sleep(0.05)
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        self.client = httpx2.Client(transport=transport, base_url="http://engine", timeout=10)
        return self.client

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()
