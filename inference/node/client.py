"""The supervisor's few questions to an engine, over the engine's private socket."""

from pathlib import Path

import httpx2
import msgspec

from inference.doctor import Code, diagnose
from inference.engines.base import Call, Engine, Probe, Told
from inference.provisioners.base import ProbeUsage

HEALTH_PATIENCE = 5.0  # seconds
CALL_PATIENCE = 120.0
PROBE_PATIENCE = 120.0  # the first generation compiles things on some machines
DRAIN_PATIENCE = 330.0  # to finish what it computes, and to copy its weights


class ProbeRefused(Exception):
    """The engine answered and did not generate; the text is the engine's own."""


class EngineRefused(Exception):
    """The engine answered and did not do it; the text is the engine's own."""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage


class _Model(msgspec.Struct):
    id: str = ""
    root: str | None = None  # the folder


class _Models(msgspec.Struct):
    data: list[_Model]


class _Error(msgspec.Struct):
    message: str


class _Errors(msgspec.Struct):
    error: _Error


class EngineClient:
    def __init__(self, engine: Engine, socket: Path) -> None:
        self.engine = engine
        transport = httpx2.AsyncHTTPTransport(uds=str(socket))
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://engine")

    async def close(self) -> None:
        await self.http.aclose()

    async def healthy(self) -> bool:
        try:
            answer = await self.http.get(self.engine.health_path, timeout=HEALTH_PATIENCE)
        except httpx2.TransportError:
            return False
        return answer.status_code == 200

    async def generate(self, probe: Probe) -> ProbeUsage:
        """A real generation. Raises ProbeRefused, httpx2.TransportError."""
        answer = await self.http.post(probe.path, json=probe.body, timeout=PROBE_PATIENCE)
        if answer.status_code != 200:
            raise ProbeRefused(f"{answer.status_code} {answer.text[:500]}")
        try:
            usage = msgspec.json.decode(answer.content, type=_Answer).usage
        except msgspec.DecodeError as error:
            raise ProbeRefused("The answer carries no usage.") from error
        return ProbeUsage(usage.prompt_tokens, usage.completion_tokens)

    async def fall_asleep(self) -> bool:
        """Have it free its GPUs once what it computes is done; whether it did."""
        return await self._done(self.engine.sleep_path, DRAIN_PATIENCE)

    async def wake_up(self) -> bool:
        return await self._done(self.engine.wake_path, PROBE_PATIENCE)

    async def _done(self, path: str, seconds: float) -> bool:
        try:
            answer = await self.http.post(path, timeout=seconds)
        except httpx2.TransportError:
            return False
        return answer.status_code == 200

    async def chats(self, probe: Probe) -> bool | None:
        """Whether the model can chat; None where the answer does not say. Raises
        httpx2.TransportError."""
        answer = await self.http.post(probe.path, json=probe.body, timeout=PROBE_PATIENCE)
        if answer.status_code == 200:
            return True
        without = diagnose(None, [answer.text]).code is Code.NO_CHAT_TEMPLATE
        return False if without else None

    async def context_length(self) -> int | None:
        """Tokens, as the engine serves the model; None where it does not say."""
        said = await self._told(self.engine.context)
        return said if isinstance(said, int) else None

    async def served(self) -> dict[str, str]:
        """The folder of each name that it serves. Raises httpx2.TransportError, EngineRefused."""
        answer = await self.http.get(self.engine.models_path, timeout=HEALTH_PATIENCE)
        try:
            models = msgspec.json.decode(answer.content, type=_Models).data
        except msgspec.DecodeError as error:
            raise EngineRefused(answer.text[:500]) from error
        return {model.id: model.root or "" for model in models}

    async def do(self, call: Call) -> None:
        """Raises httpx2.TransportError, EngineRefused."""
        answer = await self.http.post(call.path, json=call.body, timeout=CALL_PATIENCE)
        if answer.status_code != 200:
            raise EngineRefused(_words(answer.content) or f"{answer.status_code}")

    async def metrics(self) -> str:
        """The Prometheus text; empty where it cannot be had now."""
        try:
            answer = await self.http.get(self.engine.metrics_path, timeout=HEALTH_PATIENCE)
        except httpx2.TransportError:
            return ""
        return answer.text if answer.status_code == 200 else ""

    async def version(self) -> str:
        said = await self._told(self.engine.version)
        return said if isinstance(said, str) else ""

    async def _told(self, where: Told) -> object:
        """What stands there; None where there is nothing. Raises httpx2.TransportError."""
        answer = await self.http.get(where.path, timeout=HEALTH_PATIENCE)
        try:
            said = msgspec.json.decode(answer.content)
            for member in where.members:
                said = said[member]
        except (msgspec.DecodeError, LookupError, TypeError):
            return None
        return said


def _words(body: bytes) -> str:
    """What an error's body says; empty where it is of no known shape."""
    try:
        return msgspec.json.decode(body, type=_Errors).error.message[:500]
    except msgspec.DecodeError:
        return ""
