"""The supervisor's few questions to an engine, over the engine's private socket."""

from pathlib import Path

import httpx2
import msgspec

from inference.doctor import Code, diagnose
from inference.engines.base import Engine, Probe
from inference.provisioners.base import ProbeUsage

HEALTH_PATIENCE = 5.0  # seconds
PROBE_PATIENCE = 120.0  # the first generation compiles things on some machines


class ProbeRefused(Exception):
    """The engine answered and did not generate; the text is the engine's own."""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage


class _Model(msgspec.Struct):
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Version(msgspec.Struct):
    version: str


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
        answer = await self.http.get(self.engine.models_path, timeout=HEALTH_PATIENCE)
        try:
            models = msgspec.json.decode(answer.content, type=_Models).data
        except msgspec.DecodeError:
            return None
        return models[0].max_model_len if models else None

    async def metrics(self) -> str:
        """The Prometheus text; empty where it cannot be had now."""
        try:
            answer = await self.http.get(self.engine.metrics_path, timeout=HEALTH_PATIENCE)
        except httpx2.TransportError:
            return ""
        return answer.text if answer.status_code == 200 else ""

    async def version(self) -> str:
        answer = await self.http.get(self.engine.version_path, timeout=HEALTH_PATIENCE)
        try:
            return msgspec.json.decode(answer.content, type=_Version).version
        except msgspec.DecodeError:
            return ""
