"""Callers of every kind, over plain sockets: they believe only what arrives, and call only once."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.books import Seen

PATIENCE = 60.0  # seconds for a whole answer
HANG_UP = 0.1  # of the streams
AGAIN = 0.05  # seconds before another try to connect


def _chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **more}


USAGE = {"include_usage": True}
# kind: path after /v1/, body of a text
KINDS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "stream": ("chat/completions", lambda t: _chat(t, stream=True)),
    "stream told": ("chat/completions", lambda t: _chat(t, stream=True, stream_options=USAGE)),
    "stream of 3": ("chat/completions", lambda t: _chat(t, stream=True, n=3, stream_options=USAGE)),
    "whole": ("chat/completions", _chat),
    "whole of 4": ("chat/completions", lambda t: _chat(t, n=4)),
    "prompts": (
        "completions",
        lambda t: {"model": "demo", "prompt": [t, "Another one"], "stream": True, "n": 2},
    ),
    "embeddings": ("embeddings", lambda t: {"model": "vectors", "input": [t, "and this"]}),
    "response": ("responses", lambda t: {"model": "demo", "input": t, "stream": True}),
    "message": ("messages", lambda t: _chat(t, stream=True, max_tokens=500)),
}
WEIGHTS = (5, 5, 2, 2, 1, 1, 2, 1, 1)
CONTENT = (b'"delta":{"content":', b'"text":"', b'"type":"response.output_text.delta"')
ENDS = (b"data: [DONE]", b"event: response.completed", b"event: message_stop")


@dataclass
class Clients:
    """All callers, and what they saw."""

    port: int
    key: str
    draw: random.Random
    seen: list[Seen] = field(default_factory=list)
    stopping: bool = False

    @property
    def answered(self) -> int:
        """Calls that got as far as an answer's head."""
        return sum(call.status > 0 for call in self.seen)

    async def call_for_ever(self) -> None:
        """One caller: one call after the other, on the same connection as long as it lasts."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopping:
            if connection is None:
                try:
                    connection = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(AGAIN)
                    continue
            call = Seen(f"c-{len(self.seen)}", self.draw.choices(list(KINDS), WEIGHTS)[0])
            self.seen.append(call)
            again = False
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    again = await self._call(call, *connection)
            if not again:
                connection[1].transport.abort()
                connection = None
        if connection is not None:
            connection[1].transport.abort()

    async def _call(
        self, call: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection can be used again. Raises OSError, EOFError."""
        path, body = KINDS[call.kind]
        length, delay = self.draw.randint(1, 40), self.draw.choice((0, 0.002, 0.01, 0.05))
        knobs = f"[[fake tokens={length} delay={delay}]]"
        raw = json.dumps(body(f"{knobs} {call.client_request_id} and some words")).encode()
        hang_up_after = self.draw.randint(0, length) if self.draw.random() < HANG_UP else None
        writer.write(
            f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"X-Request-Id: {call.client_request_id}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        call.request_id = fields["x-request-id"]
        call.status = int(head[0].split()[1])
        if "content-length" in fields:
            self._whole(call, await reader.readexactly(int(fields["content-length"])))
        elif not await self._stream(call, reader, hang_up_after):
            return False
        return fields.get("connection") != "close"

    def _whole(self, call: Seen, body: bytes) -> None:
        answer = json.loads(body)
        call.complete = call.status == 200
        if usage := answer.get("usage"):
            call.told = (usage["prompt_tokens"], usage["completion_tokens"])

    async def _stream(
        self, call: Seen, reader: asyncio.StreamReader, hang_up_after: int | None
    ) -> bool:
        ended = False
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunk = (await reader.readexactly(size + 2))[:-2]
            for event in chunk.split(b"\n\n"):
                call.pieces += any(mark in event for mark in CONTENT) and b'""' not in event
                ended = ended or event.startswith(ENDS)
                if b'"choices":[]' in event:
                    usage = json.loads(event.removeprefix(b"data: "))["usage"]
                    call.told = (usage["prompt_tokens"], usage["completion_tokens"])
            if hang_up_after is not None and call.pieces >= hang_up_after and not ended:
                call.hung_up = True
                return False
        await reader.readexactly(2)
        call.complete = ended
        return True
