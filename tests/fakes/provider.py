"""An OpenAI-compatible service somewhere else: over TLS, with a secret, in a bad mood if asked.

It answers as the fake engine does, without vLLM's own habits; its knobs in a request's text hold
here too (hang, drop, drop_after, cut: tests/fakes/engine.py). `mood` is how it answers from now on:

    ""          well                            429   with a Retry-After of 7 seconds
    401, 403    the secret is refused           500   it has broken down
    503         it is overloaded                307   it lives elsewhere now
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import engine as fake
from tests.fakes.certificates import certificates

SECRET = "sk-theirs"  # noqa: S105
ELSEWHERE = "https://localhost:1/v1/chat/completions"  # where a redirect points
LINES = {307: [f"location: {ELSEWHERE}"], 429: ["retry-after: 7"]}
WORDS = {
    401: "Incorrect API key provided: sk-the***irs.",
    403: "Your country, region, or territory is not supported.",
    429: "You exceeded your current quota, please check your plan and billing details.",
    500: "The server had an error while processing your request.",
    503: "The engine is currently overloaded, please try again later.",
}


@dataclass
class Asked:
    """What somebody asked for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


class Provider(fake.Engine):
    def __init__(self, **given: Any) -> None:
        options = fake.options(served_model_name="gpt-x", api_key=SECRET, **given)
        options.enable_force_include_usage = False
        options.enable_request_id_headers = False
        super().__init__(options)
        self.mood: int | str = ""
        self.drops = False  # hang up without an answer
        self.asked: list[Asked] = []

    async def answer(
        self, path: str, method: str, headers: fake.Json, raw: bytes, reply: fake.Reply
    ) -> None:
        self.asked.append(Asked(method, path, headers, raw))
        if self.drops:
            raise fake.Dropped
        if not self.mood:
            await super().answer(path, method, headers, raw, reply)
            return
        status = int(self.mood)
        lines = list(LINES.get(status, []))
        error = {"message": WORDS.get(status, ""), "type": "x", "param": None, "code": None}
        body = fake._dump({"error": error})
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
        reply.transport.write(reply._head(status, lines) + body)


async def listen(
    provider: Provider, folder: Path, host: str = "localhost"
) -> tuple[asyncio.Server, int, ssl.SSLContext]:
    """Serve it under a certificate for `host`: the server, its port, and who trusts it."""
    authority, chain = certificates(folder, host)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: fake.Reply(provider), "127.0.0.1", 0, ssl=tls)
    port: int = server.sockets[0].getsockname()[1]
    return server, port, ssl.create_default_context(cafile=authority)
