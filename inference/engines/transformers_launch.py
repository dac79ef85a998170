"""`transformers serve` as the house wants its engines. Runs in the engine's own environment.

It is handed to the interpreter as text (see transformers_serve.py). What it changes of the server,
which has no options for it: a Unix socket, the instance's name as the model's, the usual end of a
stream, a count of requests, and the questions that the supervisor asks besides health.
"""

import argparse
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import transformers
import uvicorn
from transformers.cli.serve import Serve
from transformers.cli.serving.utils import BaseHandler

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

DONE = b"data: [DONE]\n\n"  # the chat streams of OpenAI end so; /v1/responses has events of its own
REVISION = "@main"  # what the server adds to a name
# Metrics; their names are known to transformers_serve.py too.
RUNNING, ENDED = "transformers_requests_running", "transformers_requests_total"


class Housed:
    """The server's ASGI application, with its manners mended."""

    def __init__(self, app: Callable[..., Awaitable[None]], name: str) -> None:
        self.app = app
        self.running = 0  # requests
        self.ended = 0
        self.answers = {
            "/version": {"version": transformers.__version__},
            "/v1/models": {"object": "list", "data": [{"id": name, "object": "model"}]},
        }

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path in self.answers:
            await answer(send, self.answers[path])
        elif scope["type"] == "http" and path == "/metrics":
            await say(send, b"text/plain; version=0.0.4", self.figures())
        elif path.startswith("/v1/"):
            ends_so = path in {"/v1/chat/completions", "/v1/completions"}
            await self.count(self.app(scope, receive, Ending(send) if ends_so else send))
        else:
            await self.app(scope, receive, send)

    async def count(self, request: Awaitable[None]) -> None:
        """Whether it has one tells who looks whether it may sleep."""
        self.running += 1
        try:
            await request
        finally:  # however it ended; a client may have gone
            self.running -= 1
            self.ended += 1

    def figures(self) -> bytes:
        """In Prometheus' text format."""
        return f"{RUNNING} {self.running}\n{ENDED} {self.ended}\n".encode()


class Ending:
    """Sends an event stream on, and ends it as clients expect."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            types = [v for k, v in message["headers"] if k.lower() == b"content-type"]
            self.streams = any(v.startswith(b"text/event-stream") for v in types)
        elif self.streams and not message.get("more_body"):
            message = message | {"body": message.get("body", b"") + DONE}
        await self.send(message)


async def answer(send: Send, content: Message) -> None:
    await say(send, b"application/json", json.dumps(content).encode())


async def say(send: Send, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def name_plainly() -> None:
    """Answers name the model as it was asked for."""
    resolve = BaseHandler._resolve_model

    def plainly(self: Any, body: Message) -> Any:
        name, *rest = resolve(self, body)
        return (name.removesuffix(REVISION), *rest)

    BaseHandler._resolve_model = plainly


def serve_on(socket: str, name: str) -> None:
    """The server makes its own configuration; it shall be ours."""
    configure = uvicorn.Config

    def ours(app: Any, **_: object) -> Any:
        return configure(Housed(app, name), uds=socket, log_level="info", access_log=False)

    uvicorn.Config = ours  # type: ignore[misc, assignment]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "name", "socket", "device", "dtype", "reasoning"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--continuous-batching", action="store_true")
    wanted = parser.parse_args()
    # The server calls a model by where it lies; a link lets it lie under the instance's name.
    os.chdir(os.environ["HOME"])
    link = Path(wanted.name)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(wanted.model))
    name_plainly()
    serve_on(wanted.socket, wanted.name)
    print(f"Loading weights of {wanted.name}", flush=True)
    Serve(
        wanted.name,
        device=wanted.device,
        dtype=wanted.dtype,
        reasoning=wanted.reasoning,
        continuous_batching=wanted.continuous_batching,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
