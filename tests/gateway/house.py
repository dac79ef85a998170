"""A gateway with a fake engine behind it, in the test's own loop: Acme's, with the model `demo`."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from billing.usage_record import Admit, Checkpoint, Final
from inference.gateway import journal
from inference.gateway.connection import GatewayProtocol
from inference.gateway.server import GatewayRuntime
from inference.gateway.tables import Instance, Replica
from portal.lib import env
from portal.lib.ids import uuid7
from tests.fakes import engine as fake
from tests.gateway.tables import ACME, StillSnapshot

ANSWER_TIMEOUT = 5.0  # seconds


@dataclass
class Row:
    """What the journal has of one request."""

    admit: Admit
    checkpoints: list[Checkpoint] = field(default_factory=list)
    final: Final | None = None


class House:
    def __init__(self, home: Path, runtime: GatewayRuntime, snapshot: StillSnapshot) -> None:
        self.home, self.runtime, self.snapshot = home, runtime, snapshot
        self.engine = fake.Engine(fake.options(uds=str(home / "engine.sock")))
        self.engine_server: asyncio.Server | None = None
        self.port = 0
        self.key = self.new_key()
        self.instance = snapshot.add_instance("demo")
        self.replica = self.add_replica(self.instance, str(home / "engine.sock"))

    def new_key(self, *, organization: bytes = ACME, **given: Any) -> str:
        pepper = self.runtime.authenticator._pepper
        return self.snapshot.add_key(pepper, organization=organization, **given)

    def stop_engine(self) -> None:
        """Nobody listens any more."""
        if self.engine_server is not None:
            self.engine_server.close()
        (self.home / "engine.sock").unlink()

    def add_replica(self, instance: Instance, path: str) -> Replica:
        replica = Replica(uuid7().bytes, instance.id, f"unix:{path}", 2048)
        instance.replicas.append(replica)
        return replica

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def sdk(self, key: str | None = None) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, api_key=key or self.key, max_retries=0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def call(self, body: Any, path: str = "/v1/chat/completions", *, extra: str = "") -> bytes:
        """The bytes of a POST."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\n{extra}Content-Length: {len(raw)}\r\n\r\n"
        )
        return head.encode() + raw

    def rows(self) -> list[Row]:
        rows: dict[bytes, Row] = {}
        for _, record in journal.records(self.home / "journal"):
            if isinstance(record, Admit):
                rows[record.request_id] = Row(record)
            elif isinstance(record, Checkpoint):
                rows[record.request_id].checkpoints.append(record)
            else:
                assert rows[record.request_id].final is None
                rows[record.request_id].final = record
        return list(rows.values())

    async def closed_row(self) -> Row:
        """The only row, once it has its FINAL."""
        async with asyncio.timeout(5):
            while not (rows := self.rows()) or rows[-1].final is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        (row,) = rows
        return row

    async def until(self, what: Any) -> None:
        async with asyncio.timeout(5):
            while not what():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    home = Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))  # paths of sockets must be short
    snapshot = StillSnapshot("")
    runtime = GatewayRuntime(env.read({"MODELPORT_HOME": str(home)}), snapshot=snapshot)
    made = House(home, runtime, snapshot)
    made.engine_server = await fake.listen(made.engine)
    await runtime.start()
    server = await runtime.loop.create_server(lambda: GatewayProtocol(runtime), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await runtime.stop()
        made.engine_server.close()
        shutil.rmtree(home)


def chat(text: str = "Hello there", **given: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}]} | given


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer off the wire: status, headers, body (de-chunked)."""
    async with asyncio.timeout(ANSWER_TIMEOUT):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if line)}
        body = b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int((await reader.readline()).strip() or b"0", 16):
                parts.append(await reader.readexactly(size))
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
            body = b"".join(parts)
        else:
            body = await reader.read()
    return int(lines[0].split()[1]), headers, body
