"""Requests under a storm of kills; what was made, what was told, what is in the rows.

    make chaos        10,000 requests, 200 kills       (python -m tests.storm --help)

The last line is a JSON object. `lost`: requests that the engine worked on, or that a client had
answered, without a row. `double`: rows beyond the first of a request. `overcharged`: rows above
what the engine made. `unequal`: whole answers whose row differs from what the client was told.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import openai
import psycopg

from tests.storm.machine import Machine

CLIENTS = 16


@dataclass
class Told:
    """What a client knows of its request."""

    request_id: str
    prompt: int = 0
    completion: int = 0
    whole: bool = False  # it got the answer to its end, with its usage


async def ask(client: openai.AsyncOpenAI, draw: random.Random) -> Told | None:
    """One request of some kind; None where not even a head came back."""
    words = " ".join(["more"] * draw.randint(1, 30))
    text = f"{words} [[fake tokens={draw.randint(1, 60)} delay=0.004]]"
    body = {"model": "demo", "messages": [{"role": "user", "content": text}]}
    call = client.chat.completions.with_raw_response.create
    kind = draw.random()
    told = None
    try:
        if kind < 0.4:
            answer = await call(**body, n=2 if kind < 0.05 else 1)
            used = answer.parse().usage
            return Told(request_id(answer), used.prompt_tokens, used.completion_tokens, True)
        answer = await call(**body, stream=True, stream_options={"include_usage": True})
        told = Told(request_id(answer))
        await listen(answer, told, draw.randint(1, 10) if kind > 0.9 else 0)
    except openai.OpenAIError:
        pass  # something was killed under our hands
    return told


async def listen(answer: object, told: Told, left_after: int) -> None:
    """Take a stream in; hang up after so many events, if that is not 0."""
    count = 0
    async for chunk in answer.parse():  # type: ignore[attr-defined]
        count += 1
        if chunk.usage is not None:
            told.prompt, told.completion = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            told.whole = not chunk.choices
        if count == left_after:
            await answer.http_response.aclose()  # type: ignore[attr-defined]
            return


def request_id(answer: object) -> str:
    return str(answer.headers["x-request-id"])  # type: ignore[attr-defined]


async def storm(machine: Machine, key: str, requests: int, kills: int, seed: int) -> dict[str, int]:
    """The requests and the kills, side by side; then what the books say."""
    told: list[Told] = []
    left = iter(range(requests))
    done = 0
    url = f"http://127.0.0.1:{machine.port}/v1"

    async def client(number: int) -> None:
        nonlocal done
        draw = random.Random(seed * 1000 + number)  # noqa: S311
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as sdk:
            for _ in left:
                if (one := await ask(sdk, draw)) is not None:
                    told.append(one)
                else:
                    await asyncio.sleep(0.05)
                done += 1

    async def killer() -> None:
        for number in range(kills):
            while done < requests * (number + 0.5) / kills and done < requests:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(machine.kill_one)

    await answering(url, key)
    await asyncio.gather(killer(), *(client(number) for number in range(CLIENTS)))
    # In this loop still: what was begun in its threads ends with them.
    await asyncio.to_thread(machine.settle)
    return await asyncio.to_thread(compare, machine, told)


async def answering(url: str, key: str) -> None:
    """Wait until the gateway answers."""
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as sdk:
        async with asyncio.timeout(60):
            while True:
                try:
                    await sdk.models.list()
                    return
                except openai.OpenAIError:
                    await asyncio.sleep(0.1)


def compare(machine: Machine, told: list[Told]) -> dict[str, int]:
    """The three books: the engine's, the clients', ours."""
    made = {}
    for line in machine.record.read_text().splitlines():
        id_, prompt, completion = json.loads(line)
        made[id_] = (prompt, completion)
    with psycopg.connect(machine.env.database) as connection:
        rows = connection.execute(
            "SELECT request_id, prompt_tokens, completion_tokens FROM billing_usage"
        ).fetchall()
    ours = {str(id_): (prompt, completion) for id_, prompt, completion in rows}
    whole = {one.request_id: (one.prompt, one.completion) for one in told if one.whole}
    wrong = {
        "lost": (made.keys() | whole.keys()) - ours.keys(),
        "overcharged": {
            id_
            for id_, (prompt, completion) in ours.items()
            if prompt > made.get(id_, (0, 0))[0] or completion > made.get(id_, (0, 0))[1]
        },
        "unequal": {id_ for id_, used in whole.items() if ours.get(id_) != used},
    }
    for name, ids in wrong.items():
        for id_ in sorted(ids)[:5]:
            print(f"{name}: {id_} made {made.get(id_)} row {ours.get(id_)} told {whole.get(id_)}")
    counted = {name: len(ids) for name, ids in wrong.items()}
    counted |= {"double": len(rows) - len(ours), "unsound": int(not machine.books_are_sound())}
    return counted | {"rows": len(rows), "whole": len(whole)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as home:
        machine = Machine(Path(home), options.seed)
        try:
            key = machine.start()
            found = asyncio.run(storm(machine, key, options.requests, options.kills, options.seed))
        except BaseException:
            print((Path(home) / "storm.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            machine.stop()
    result = {"requests": options.requests, "kills": machine.kills, **found}
    print(json.dumps(result | {"seconds": round(time.monotonic() - began)}))
    wrong = ("lost", "double", "overcharged", "unequal", "unsound")
    return int(any(found[name] for name in wrong) or not found["whole"])


if __name__ == "__main__":
    sys.exit(main())
