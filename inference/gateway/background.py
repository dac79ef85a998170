"""Responses that are made in the background: followed until their usage is known."""

import asyncio

import msgspec

from billing.usage_record import Usage
from inference.gateway import usage
from inference.gateway.upstream import Pool, ask

EVERY = 1.0  # seconds between looks
TIMEOUT = 10.0  # seconds for one look
OVER = frozenset({"completed", "failed", "incomplete", "cancelled"})


class _Response(msgspec.Struct):
    id: str
    status: str


_read = msgspec.json.Decoder(_Response).decode


async def follow(pool: Pool, body: bytes, seconds: float) -> tuple[Usage | None, str]:
    """What a response that has just been begun used in the end, and how it ended.

    Raises OSError, TimeoutError, ValueError where that cannot be learnt.
    """
    async with asyncio.timeout(seconds):
        response = _read(body)
        while response.status not in OVER:
            await asyncio.sleep(EVERY)
            status, body = await ask(
                pool,
                f"GET /v1/responses/{response.id} HTTP/1.1\r\nHost: engine\r\n\r\n".encode(),
                TIMEOUT,
            )
            if status != 200:
                raise ValueError(f"the engine answered {status}")
            response = _read(body)
    return usage.of_answer(body)
