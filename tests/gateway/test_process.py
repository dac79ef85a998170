"""`modelport gateway` as a process: several workers on one port, and a quiet end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from openai import APIConnectionError, AsyncOpenAI

from inference.gateway import journal
from tests.gateway.house import House
from tests.gateway.test_keys import database, furnish, new_key


@pytest.fixture
async def key(transactional_db, alice, acme, house: House):
    await sync_to_async(furnish)(acme, alice, house)
    _, plain = await sync_to_async(new_key)(acme, alice)
    yield plain
    await sync_to_async(connections.close_all)()


@asynccontextmanager
async def two_workers(
    house: House, key: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """`modelport gateway --workers 2` that answers, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"MODELPORT_HOME": str(house.home), "DATABASE_URL": database()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "portal.cli", "gateway", "--workers", "2"),
        *("--host", "127.0.0.1", "--port", str(port)),
        env=os.environ | given | {"API_KEY_PEPPER": settings.API_KEY_PEPPER},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while len(writers(house)) < 3:  # ours is one of them
                await asyncio.sleep(0.1)
            while not await answers(port, key):
                await asyncio.sleep(0.1)
        yield process, port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


def writers(house: House) -> set[str]:
    return {journal.writer_of(path) for path in journal.files(house.home / "journal")}


async def test_two_workers_share_a_port_and_end_together(house: House, key: str):
    async with two_workers(house, key) as (process, port):
        for _ in range(20):
            assert await answers(port, key)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    log = house.home / "journal"
    alive = [path for path in journal.files(log) if journal.is_alive(path)]
    assert alive == [house.runtime.journal.path]


async def test_a_worker_that_dies_is_replaced(house: House, key: str):
    async with two_workers(house, key) as (process, port):
        psutil.Process(process.pid).children()[0].kill()
        async with asyncio.timeout(30):
            while len(writers(house)) < 4:
                await asyncio.sleep(0.1)
        assert await answers(port, key)


async def answers(port: int, key: str) -> bool:
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0
    ) as client:
        try:
            return [model.id async for model in client.models.list()] == ["demo"]
        except APIConnectionError:
            return False
