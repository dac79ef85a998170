"""Deploys under load: are streams cut, do engines notice, are the books right? (P10)

    make chaos        1,000 streams, 5 deploys          (python -m tests.rolling --help)

Each deploy replaces gateway, pages, meter, worker, beat, controller and node. A stream is broken
that ends without its `[DONE]`, or gets no 200. Streams are followed by others at once, each on a
connection of its own, without a second try. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.rolling.fleet import Fleet

PATIENCE = 300.0  # seconds; nothing comes any more


@dataclass
class Load:
    """Streams that go on until told otherwise."""

    port: int
    key: str
    body: dict[str, object]
    tokens: tuple[int, int]  # from, to; longer than a deploy takes
    delay: float  # seconds between them, where the engine is a fake
    over: bool = False
    under_way: int = 0
    told: dict[str, int] = field(default_factory=dict)  # completion tokens, by request
    broken: list[str] = field(default_factory=list)
    longest: float = 0.0

    async def client(self, number: int) -> None:
        draw = random.Random(number)  # noqa: S311
        await asyncio.sleep(draw.random() * 5)
        while not self.over:
            began = time.monotonic()
            try:
                await self.stream(draw.randint(*self.tokens))
            except (OSError, EOFError, TimeoutError, ValueError) as problem:
                self.broken.append(f"{type(problem).__name__}: {problem}"[:200])
            self.longest = max(self.longest, time.monotonic() - began)

    async def stream(self, tokens: int) -> None:
        """One, to its end. Raises OSError, EOFError, TimeoutError, ValueError."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self._call(tokens))
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head.partition(b"\r\n")[0]:
                    raise ValueError(head.partition(b"\r\n")[0] + await reader.read(300))
                self.under_way += 1
                try:
                    stream = await reader.read()  # until it is closed, as was asked for
                finally:
                    self.under_way -= 1
        finally:
            writer.close()
        if b"data: [DONE]" not in stream:
            raise ValueError(f"cut after {len(stream)} bytes: {stream[-80:]!r}")
        self._note(head, stream)

    def _call(self, tokens: int) -> bytes:
        text = f"[[fake tokens={tokens} delay={self.delay}]]" if self.delay else "Go on and on."
        said = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
        body = json.dumps(self.body | said).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {self.key}"
            f"\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _note(self, head: bytes, stream: bytes) -> None:
        lines = dict(line.split(b": ", 1) for line in head.lower().splitlines()[1:] if line)
        usage = stream[stream.rindex(b'"completion_tokens":') :]
        count = usage.removeprefix(b'"completion_tokens":').lstrip()
        digits = count[: len(count) - len(count.lstrip(b"0123456789"))]
        self.told[lines[b"x-request-id"].decode()] = int(digits)


async def roll(fleet: Fleet, load: Load, streams: int, deploys: int) -> list[int]:
    """How many streams were under way at each deploy."""
    clients = [asyncio.ensure_future(load.client(number)) for number in range(streams)]
    seen = []
    for _ in range(deploys):
        while load.under_way < 0.9 * streams:
            await asyncio.sleep(0.1)
        seen.append(load.under_way)
        await asyncio.to_thread(fleet.deploy)
    load.over = True
    await asyncio.gather(*clients)
    await asyncio.to_thread(fleet.drained)
    await asyncio.to_thread(fleet.settle)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--deploys", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.5, help="seconds between fake tokens")
    parser.add_argument("--real", action="store_true", help="vLLM in the place of the fake engine")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ro-", dir="/tmp") as home:
        fleet = Fleet(Path(home), real=options.real)
        try:
            key = fleet.start()
            load = load_of(fleet, key, 0.0 if options.real else options.delay)
            before = fleet.engine()
            seen = asyncio.run(roll(fleet, load, options.streams, options.deploys))
            same = bool(before) and fleet.engine() == before
            ours = {id_: completion for id_, (_prompt, completion) in fleet.rows().items()}
        except BaseException:
            print((Path(home) / "storm.log").read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            fleet.stop()
    for problem in load.broken[:5]:
        print(problem, file=sys.stderr)
    result = {
        "streams": options.streams,
        "deploys": options.deploys,
        "under_way": seen,
        "whole": len(load.told),
        "broken": len(load.broken),
        "longest_s": round(load.longest, 1),
        "engine_processes": len(before),
        "engine_unchanged": same,
        "unequal": sum(ours.get(id_) != count for id_, count in load.told.items()),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))
    right = same and load.told and not load.broken and not result["unequal"]
    return int(not right)


def load_of(fleet: Fleet, key: str, delay: float) -> Load:
    body = {"model": "demo", "stream": True, "stream_options": {"include_usage": True}}
    if delay:
        return Load(fleet.port, key, body, tokens=(20, 80), delay=delay)
    # As long as the model's context allows, however early it would like to end.
    return Load(fleet.port, key, body | {"ignore_eos": True}, tokens=(1000, 1900), delay=0.0)


if __name__ == "__main__":
    sys.exit(main())
