"""Two worker processes on one port: a revoked key dies in both, a limit holds over both."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress

import psutil
import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from inference.gateway.tables import Meter, Window
from inference.models import Limit
from tests.gateway.house import House, chat, read_answer
from tests.gateway.test_keys import database, furnish, new_key
from tests.gateway.test_process import two_workers

KEYS = 100
CLIENTS = 64
MOST = 150  # requests
HEARD = 1.0  # seconds in which every worker hears of a change


@pytest.fixture
async def key(transactional_db, alice, acme, house: House):
    await sync_to_async(furnish)(acme, alice, house)
    _, plain = await sync_to_async(new_key)(acme, alice)
    yield plain
    await sync_to_async(connections.close_all)()


def served_by(parent: int, port: int, own_port: int) -> int:
    """The worker that has the other end of this connection."""
    for worker in psutil.Process(parent).children():
        for connection in worker.net_connections("tcp4"):
            if connection.laddr[1:] == (port,) and connection.raddr[1:] == (own_port,):
                return worker.pid
    raise AssertionError("nobody serves this connection")


async def one_to_each(parent: int, port: int):
    """Connections to both workers, one each."""
    ends = {}
    async with asyncio.timeout(30):
        while len(ends) < 2:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")  # so that it has been accepted
            await read_answer(reader)
            pid = served_by(parent, port, writer.get_extra_info("sockname")[1])
            if pid in ends:
                writer.close()
            else:
                ends[pid] = reader, writer
    return list(ends.values())


async def status(end, key: str) -> int:
    reader, writer = end
    writer.write(f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    return (await read_answer(reader))[0]


async def dead_after(ends, key: str) -> float:
    """Seconds until both workers refuse it."""
    began = time.monotonic()
    while {await status(end, key) for end in ends} != {401}:
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def test_a_revoked_key_dies_in_both_within_a_second(house: House, key, acme, alice):
    async with two_workers(house, key) as (process, port):
        ends = await one_to_each(process.pid, port)
        seconds = []
        for _ in range(KEYS):
            made, plain = await sync_to_async(new_key)(acme, alice)
            assert {await status(end, plain) for end in ends} == {200}
            await sync_to_async(made.revoke)(alice)
            seconds.append(await dead_after(ends, plain))
        for _, writer in ends:
            writer.close()
    assert len(seconds) == KEYS
    print(f"both workers had heard after {sorted(seconds)[98] * 1000:.1f} ms (p99 of {KEYS})")
    assert sorted(seconds)[98] < 1


@asynccontextmanager
async def metered(house: House):
    """`modelport meter` beside the workers."""
    given = {"MODELPORT_HOME": str(house.home), "DATABASE_URL": database()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "portal.cli", "meter"),
        env=os.environ | given,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def call_until_refused(port: int, key: str, seen: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(chat()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer {key}\r\n"
    refused = 0
    while refused < 3:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer, _, _ = await read_answer(reader)
        seen[answer] += 1
        refused += answer == 429
    writer.close()


async def test_64_clients_over_both_get_what_the_limit_says_and_not_one_more(
    house: House, key, acme, alice
):
    async with metered(house), two_workers(house, key) as (_, port):
        made, plain = await sync_to_async(new_key)(acme, alice)
        owner = await acme.memberships.aget()
        await sync_to_async(Limit.set_for)(made, {(Meter.REQUESTS, Window.DAY): MOST}, by=owner)
        await asyncio.sleep(HEARD)
        seen: Counter[int] = Counter()
        async with asyncio.timeout(60):
            await asyncio.gather(*(call_until_refused(port, plain, seen) for _ in range(CLIENTS)))
    assert seen[200] == MOST
    assert set(seen) == {200, 429}
