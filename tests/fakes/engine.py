"""An engine that speaks vLLM 0.32's wire format and thinks of nothing, for tests.

    python -m tests.fakes.engine --model DIR --served-model-name NAME --uds PATH

(or --host and --port). Other flags of vLLM are accepted; the ones that change the wire are obeyed:
--max-model-len, --enable-force-include-usage, --enable-prompt-tokens-details,
--enable-request-id-headers, --runner pooling, --api-key or VLLM_API_KEY, --enable-lora (with
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1: adapters come and go; one whose adapter_config.json has
"fake_refuses" is refused).

Tokenizer  a token is a word with the white space before it: re.findall(r"\\s*\\S+|\\s+").
Prompt     a chat is rendered as "role: content\\n" per message and "assistant:" at the end; parts
           that are no text count 16 tokens each.
Answer     `answer(text)` below, by the text of the last message: always the same.
Cache      prompt tokens in blocks of 16 whose prefix was seen before count as cached.
Metrics    /metrics counts what vLLM counts, aborted requests included (prompt n times for n > 1).

Knobs for one request, in its `user` field or anywhere in its text, as `[[fake KEY=VALUE …]]`:
    first=S       seconds before the first token        delay=S   seconds before each further token
    tokens=N      length of the answer                  status=N  answer with this error status
    hang=1        never answer                          drop=1    close without an answer
    drop_after=K  close after K chunks of content       error_after=K  an error event after K chunks
    no_usage=1    send no usage at all                  cut=1     (not streaming) close half way
Knobs of the process, from the environment:
    FAKE_ENGINE_STARTUP_DELAY  seconds until it listens    FAKE_ENGINE_TOKEN_DELAY  default of delay
    FAKE_ENGINE_EXIT_CODE      print FAKE_ENGINE_LOG to stderr and refuse to start with this code
    FAKE_ENGINE_IGNORE_TERM    stay when asked to stop
    FAKE_ENGINE_NO_CHAT_TEMPLATE  refuse to chat, as with a model that has no chat template
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any

import httptools

from tests.fakes.wider import Wider

Json = dict[str, Any]
TOKEN = re.compile(r"\s*\S+|\s+")
KNOBS = re.compile(r"\[\[fake ([^\]]*)\]\]")
BLOCK = 16
FINGERPRINT = "vllm-0.32.0-5a660262"
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a "
    "chat template if the tokenizer does not define one."
)
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds; a few of vLLM's


def tokenize(text: str) -> list[str]:
    return TOKEN.findall(text)


def answer(text: str) -> str:
    """What the engine says to this text."""
    return f"You said: {KNOBS.sub('', text).strip()} That is all I know about it, and it is enough."


class Refusal(Exception):
    """Answered as vLLM's create_error_response does."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        self.status = status
        self.body: Json = {
            "error": {"message": message, "type": kind, "param": param, "code": status}
        }


class Dropped(Exception):
    """Close the connection without a further byte."""


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "BadRequestError", message, param)


def _text(content: Any) -> str:
    if isinstance(content, list):
        filler = " image" * BLOCK
        return "".join(
            p.get("text", "") if p.get("type", "text") == "text" else filler for p in content
        )
    return content or ""


def _adapter_config(path: str) -> Json:
    """Raises OSError where the folder cannot be read."""
    with open(os.path.join(path, "adapter_model.safetensors"), "rb") as file:
        file.read(8)
    with open(os.path.join(path, "adapter_config.json")) as file:
        config: Json = json.load(file)
    return config


class Durations:
    """A histogram as Prometheus prints it."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> list[str]:
        upto = accumulate(self.counts)
        lines = [
            f'{name}_bucket{{{labels},le="{bound}"}} {float(n)}'
            for bound, n in zip((*BOUNDS, "+Inf"), upto, strict=True)
        ]
        lines.append(f"{name}_count{{{labels}}} {float(sum(self.counts))}")
        return [*lines, f"{name}_sum{{{labels}}} {self.total}"]


class Request:
    """One prompt of a request, tokenized, and the answer it will get."""

    def __init__(self, body: Json, text: str, prompt: list[str], limit: int) -> None:
        self.body = body
        self.prompt = prompt
        marks = KNOBS.search(body.get("user") or "") or KNOBS.search(text)
        self.knobs = dict(pair.split("=", 1) for pair in marks[1].split()) if marks else {}
        if len(prompt) >= limit:
            raise _bad(
                f"This model's maximum context length is {limit} tokens. However, your request has "
                f"{len(prompt)} input tokens. Please reduce the length of the input messages.",
                "input_tokens",
            )
        room = body.get("max_completion_tokens") or body.get("max_tokens") or limit - len(prompt)
        pieces = tokenize(answer(text))
        if "tokens" in self.knobs:
            wanted = int(self.knobs["tokens"])
            pieces = (pieces * (wanted // len(pieces) + 1))[:wanted]
        self.pieces = pieces[: min(room, limit - len(prompt))]
        self.finish_reason = "stop" if len(self.pieces) == len(pieces) else "length"

    def knob(self, name: str, default: float = 0) -> float:
        return float(self.knobs.get(name, default))


class Engine(Wider):
    """The state of the process: what it serves, what it has counted."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options
        self.name = options.served_model_name or options.model
        self.adapters: dict[str, str] = {}  # folders by name
        self.limit = options.max_model_len
        self.key = options.api_key or os.environ.get("VLLM_API_KEY", "")
        self.delay = float(os.environ.get("FAKE_ENGINE_TOKEN_DELAY", "0"))
        self.pooling = options.runner == "pooling"
        self.asleep = False
        self.created = int(time.time())
        self.blocks: set[int] = set()
        self.running = 0
        self.counters = {
            "prompt_tokens_total": 0,
            "generation_tokens_total": 0,
            "prompt_tokens_cached_total": 0,
            "prefix_cache_queries_total": 0,
            "prefix_cache_hits_total": 0,
            "num_preemptions_total": 0,
        }
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        self.durations = {
            "time_to_first_token_seconds": Durations(),
            "inter_token_latency_seconds": Durations(),
        }
        self.replies: set[Reply] = set()
        self.connections = 0  # accepted since the start: tells whether clients keep theirs

    # --- routes

    async def answer(
        self, path: str, method: str, headers: Json, raw: bytes, reply: "Reply"
    ) -> None:
        handler = self._routes().get((method, path)) or self.wider_routes(
            method, path, pooling=self.pooling
        )
        if (
            path.startswith("/v1")
            and self.key
            and headers.get("authorization") != f"Bearer {self.key}"
        ):
            reply.json(401, {"error": "Unauthorized"})
        elif handler is None:
            reply.json(404, {"detail": "Not Found"})
        elif self.asleep and method == "POST" and path != "/wake_up":
            raise Dropped  # nothing is in its memory that could answer
        else:
            await handler(raw, headers, reply)

    def _routes(self) -> dict[tuple[str, str], Callable[..., Coroutine[Any, Any, None]]]:
        generate: dict[tuple[str, str], Callable[..., Coroutine[Any, Any, None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
        }
        pool: dict[tuple[str, str], Callable[..., Coroutine[Any, Any, None]]] = {
            ("POST", "/v1/embeddings"): self._embeddings
        }
        lora: dict[tuple[str, str], Callable[..., Coroutine[Any, Any, None]]] = {
            ("POST", "/v1/load_lora_adapter"): self._load_lora,
            ("POST", "/v1/unload_lora_adapter"): self._unload_lora,
        }
        return {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            **(self._dozing() if self.options.enable_sleep_mode else {}),
            **(pool if self.pooling else generate),
            **(lora if self.options.runtime_lora else {}),
        }

    def _dozing(self) -> dict[tuple[str, str], Callable[..., Coroutine[Any, Any, None]]]:
        """As vLLM offers where VLLM_SERVER_DEV_MODE is set."""
        if os.environ.get("VLLM_SERVER_DEV_MODE") != "1":
            return {}

        async def sleep(raw: bytes, headers: Json, reply: "Reply") -> None:
            while self.running:  # mode=wait
                await asyncio.sleep(0.01)
            self.asleep = True
            reply.json(200, {"status": "sleeping", "level": 1})

        async def wake_up(raw: bytes, headers: Json, reply: "Reply") -> None:
            self.asleep = False
            reply.json(200, {"status": "awake", "tags": None})

        return {("POST", "/sleep"): sleep, ("POST", "/wake_up"): wake_up}

    async def _health(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        reply.send(200, b"", "")

    async def _version(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        reply.json(200, {"version": "0.32.0"})

    async def _models(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        card = {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "vllm",
            "root": self.options.model,
            "parent": None,
            "max_model_len": self.limit,
            "permission": [],
        }
        adapters = [
            card | {"id": name, "root": path, "parent": self.name, "max_model_len": None}
            for name, path in self.adapters.items()
        ]
        reply.json(200, {"object": "list", "data": [card, *adapters]})

    async def _load_lora(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        body = json.loads(raw)
        name, path = body.get("lora_name", ""), body.get("lora_path", "")
        wrong = "InvalidUserInput"
        if not name or not path:
            raise Refusal(400, wrong, "Both 'lora_name' and 'lora_path' must be provided.")
        if name == self.name:
            said = f"The lora adapter '{name}' conflicts with a served base model."
            raise Refusal(400, wrong, said)
        if name in self.adapters:
            raise Refusal(400, wrong, f"The lora adapter '{name}' has already been loaded.")
        try:
            config = _adapter_config(path)
        except OSError as error:
            said = f"Loading lora {name} failed: No adapter found for {path}"
            raise Refusal(404, "NotFoundError", said) from error
        if config.get("fake_refuses"):
            said = f"Call to add_lora method failed: While loading {path}, it was refused."
            raise Refusal(500, "InternalServerError", said)
        self.adapters[name] = path
        reply.send(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "")

    async def _unload_lora(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        name = json.loads(raw).get("lora_name", "")
        if name not in self.adapters:
            said = f"The lora adapter '{name}' cannot be found."
            raise Refusal(404, "NotFoundError", said)
        del self.adapters[name]
        reply.send(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "")

    async def _metrics(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        labels = f'engine="0",model_name="{self.name}"'
        lines = [f"vllm:{name}{{{labels}}} {float(n)}" for name, n in self.counters.items()]
        lines += [
            f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(n)}'
            for reason, n in self.finished.items()
        ]
        for name, durations in self.durations.items():
            lines += durations.lines(f"vllm:{name}", labels)
        lines += [
            f"vllm:num_requests_running{{{labels}}} {float(self.running)}",
            f"vllm:num_requests_waiting{{{labels}}} 0.0",
            f"vllm:kv_cache_usage_perc{{{labels}}} 0.0",
            f"fake:connections_total {float(self.connections)}",
        ]
        reply.send(
            200, "\n".join([*lines, ""]).encode(), "text/plain; version=0.0.4; charset=utf-8"
        )

    async def _tokenize(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        body = self._body(raw)
        text = self._render(body) if "messages" in body else str(body.get("prompt", ""))
        tokens = list(range(len(tokenize(text))))
        reply.json(
            200,
            {
                "count": len(tokens),
                "max_model_len": self.limit,
                "tokens": tokens,
                "token_strs": None,
            },
        )

    async def _chat(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        body = self._body(raw)
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise _bad(
                "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]"
            )
        last = _text(body["messages"][-1].get("content"))
        requests = [Request(body, last, tokenize(self._render(body)), self.limit)]
        await Generation(self, requests, headers, reply, chat=True).run()

    def request_for(self, body: Json, messages: list[Json]) -> Request:
        """The request that these messages make."""
        prompt = tokenize(self._render({"messages": messages}))
        return Request(body, _text(messages[-1].get("content")), prompt, self.limit)

    bad = staticmethod(_bad)

    async def _completions(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        body = self._body(raw)
        prompt = body.get("prompt", "")
        prompts = prompt if isinstance(prompt, list) and prompt[:1] != [] else [prompt]
        if all(isinstance(p, int) for p in prompts):
            prompts = [prompts]
        texts = [p if isinstance(p, str) else " ".join(map(str, p)) for p in prompts]
        body.setdefault("max_tokens", 16)
        requests = [Request(body, text, tokenize(text) or [""], self.limit) for text in texts]
        await Generation(self, requests, headers, reply, chat=False).run()

    async def _embeddings(self, raw: bytes, headers: Json, reply: "Reply") -> None:
        body = self._body(raw)
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        count = sum(len(tokenize(str(text))) for text in texts)
        self.counters["prompt_tokens_total"] += count
        data = [
            {"index": i, "object": "embedding", "embedding": [len(str(t)) / 1000, 0.5, -0.25]}
            for i, t in enumerate(texts)
        ]
        usage = {
            "prompt_tokens": count,
            "total_tokens": count,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        }
        reply.json(
            200,
            {
                "id": f"embd-{reply.request_id}",
                "object": "list",
                "created": int(time.time()),
                "model": self.name,
                "data": data,
                "usage": usage,
            },
        )

    def _body(self, raw: bytes) -> Json:
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Refusal(400, "Bad Request", f"JSON decode error: {error}") from error
        if not isinstance(body, dict):
            raise Refusal(400, "Bad Request", "Input should be a valid dictionary")
        if body.get("model", self.name) not in {self.name, *self.adapters}:
            raise Refusal(
                404,
                "NotFoundError",
                f"The model `{body['model']}` does not exist. Valid aliases: {self.name}.",
                "model",
            )
        if body.get("stream_options") and not body.get("stream"):
            raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
        return body

    def _render(self, body: Json) -> str:
        if os.environ.get("FAKE_ENGINE_NO_CHAT_TEMPLATE"):
            raise _bad(NO_TEMPLATE)
        lines = [f"{m.get('role', '')}: {_text(m.get('content'))}\n" for m in body["messages"]]
        return "".join(lines) + "assistant:"

    # --- counting

    def admit(self, prompt: list[str], n: int) -> int:
        """Count the prompt and say how many of its tokens were cached."""
        prefixes = [
            hash(tuple(prompt[: end + BLOCK])) for end in range(0, len(prompt) - BLOCK, BLOCK)
        ]
        cached = 0
        for prefix in prefixes:
            if prefix not in self.blocks:
                break
            cached += BLOCK
        self.blocks.update(prefixes)
        self.counters["prompt_tokens_total"] += len(prompt) * n
        self.counters["prompt_tokens_cached_total"] += cached
        self.counters["prefix_cache_queries_total"] += len(prompt)
        self.counters["prefix_cache_hits_total"] += cached
        return cached


class Generation:
    """One request being answered: its chunks, its usage, its accidents."""

    def __init__(
        self, engine: Engine, requests: list[Request], headers: Json, reply: "Reply", *, chat: bool
    ) -> None:
        self.engine, self.requests, self.reply, self.chat = engine, requests, reply, chat
        self.body = requests[0].body
        self.n = self.body.get("n") or 1
        self.first = requests[0]
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self.head = {
            "id": f"{prefix}-{reply.request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": self.body.get("model", engine.name),
        }
        self.prompt_tokens = sum(len(r.prompt) for r in requests)
        self.cached = 0

    async def run(self) -> None:
        request = self.first
        if request.knob("drop"):
            raise Dropped
        if "status" in request.knobs:
            status = int(request.knobs["status"])
            raise Refusal(status, "InternalServerError", "The fake engine was asked to fail.")
        self.cached = sum(self.engine.admit(r.prompt, self.n) for r in self.requests)
        self.engine.running += 1
        try:
            if request.knob("hang"):
                await asyncio.Event().wait()
            if self.body.get("stream"):
                await self._stream()
            else:
                await self._whole()
        finally:
            self.engine.running -= 1

    def _choices(self) -> Iterator[tuple[int, Request]]:
        for number, request in enumerate(self.requests):
            for index in range(self.n):
                yield number * self.n + index, request

    async def _tokens(self) -> AsyncIterator[tuple[int, Request, int, str]]:
        """(choice, its request, tokens so far, text): the choices advance side by side."""
        delay = self.first.knob("delay", self.engine.delay)
        last, clock = time.perf_counter(), time.perf_counter
        await asyncio.sleep(self.first.knob("first"))
        for position in range(max(len(r.pieces) for r in self.requests)):
            if position and delay:
                await asyncio.sleep(delay)
            name = "inter_token_latency_seconds" if position else "time_to_first_token_seconds"
            self.engine.durations[name].add(clock() - last)
            last = clock()
            for choice, request in self._choices():
                if position < len(request.pieces):
                    self.engine.counters["generation_tokens_total"] += 1
                    yield choice, request, position + 1, request.pieces[position]

    def _usage(self, prompt: int, completion: int) -> Json:
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
        }

    def _details(self) -> Json | None:
        if not self.engine.options.enable_prompt_tokens_details:
            return None
        details: Json = {"cached_tokens": self.cached}
        return details | ({"created_cache_tokens": 0} if self.chat else {})

    def _whole_details(self) -> Json | None:
        details = self._details()
        if details is None:
            return None
        return {
            "cached_tokens": 0,
            "created_cache_tokens": None,
            "multimodal_tokens": None,
        } | details

    async def _whole(self) -> None:
        texts = {choice: "" for choice, _ in self._choices()}
        count = 0
        async for choice, _, _, piece in self._tokens():
            texts[choice] += piece
            count += 1
        choices = [self._whole_choice(c, r, texts[c]) for c, r in self._choices()]
        for _, request in self._choices():
            self.engine.finished[request.finish_reason] += 1
        usage = self._usage(self.prompt_tokens, count) | {
            "prompt_tokens_details": self._whole_details(),
            "completion_tokens_details": None,
        }
        extra: Json = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        if self.chat:
            only = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
            extra = only | extra
        body = self.head | {
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage,
        }
        if self.first.knob("no_usage"):
            del body["usage"]
        if self.first.knob("cut"):
            self.reply.half(body | extra)
            raise Dropped
        self.reply.json(200, body | extra)

    def _whole_choice(self, index: int, request: Request, text: str) -> Json:
        end = {"finish_reason": request.finish_reason, "stop_reason": None, "token_ids": None}
        if not self.chat:
            end |= {"prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
            return {"index": index, "text": text, "logprobs": None, **end}
        message = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        return {"index": index, "message": message, "logprobs": None, **end, "routed_experts": None}

    async def _stream(self) -> None:
        options = self.body.get("stream_options") or {}
        forced = self.engine.options.enable_force_include_usage
        silent = bool(self.first.knob("no_usage"))
        self.final_usage = (forced or bool(options.get("include_usage"))) and not silent
        self.running_usage = self.final_usage and (
            forced or bool(options.get("continuous_usage_stats"))
        )
        if self.chat:
            self.head["object"] = "chat.completion.chunk"
        self.reply.begin_stream()
        total = sent = 0
        async for choice, request, count, piece in self._tokens():
            if self.chat and not total:
                self._roles()
            total += 1
            if self.first.knob("drop_after") and sent >= self.first.knob("drop_after"):
                raise Dropped
            if self.first.knob("error_after") and sent >= self.first.knob("error_after"):
                error = Refusal(500, "InternalServerError", "The fake engine broke down.")
                self.reply.event(error.body)
                break
            self._chunk(choice, request, count, piece)
            await self.reply.drain()
            sent += 1
        else:
            if self.final_usage:
                self._last(total)
        self.reply.end_stream()

    def _roles(self) -> None:
        for choice, request in self._choices():
            delta = {"role": "assistant", "content": ""}
            body = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
            self.reply.event(
                self.head
                | {"choices": [body]}
                | self._running(request, 0)
                | {"prompt_token_ids": None, "prompt_text": None}
            )

    def _running(self, request: Request, count: int) -> Json:
        """vLLM's running usage is that of the chunk's own choice, not of all."""
        if not self.running_usage:
            return {}
        details = {"completion_tokens_details": None} if self.chat else {}
        return {"usage": self._usage(len(request.prompt), count) | details}

    def _chunk(self, choice: int, request: Request, count: int, piece: str) -> None:
        last = count == len(request.pieces)
        body: Json = {"index": choice}
        body |= {"delta": {"content": piece}} if self.chat else {"text": piece}
        body |= {"logprobs": None, "finish_reason": request.finish_reason if last else None}
        if last or not self.chat:
            body["stop_reason"] = None
        if not self.chat:
            body["prompt_token_ids"] = None
        body["token_ids"] = None
        if last:
            self.engine.finished[request.finish_reason] += 1
        self.reply.event(self.head | {"choices": [body]} | self._running(request, count))

    def _last(self, total: int) -> None:
        usage = self._usage(self.prompt_tokens, total)
        if details := self._details():
            usage["prompt_tokens_details"] = details
        closing = {"choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}
        self.reply.event(self.head | closing)


class Reply(asyncio.Protocol):
    """One connection: reads requests, writes answers as uvicorn frames them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)
        self.engine.connections += 1
        self.engine.replies.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.engine.replies.discard(self)
        if self.task:
            self.task.cancel()  # as vLLM aborts when its client has gone

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.request_id = self.headers.get("x-request-id") or uuid.uuid4().hex[:16]
        path = httptools.parse_url(self.url).path.decode()
        method = self.parser.get_method().decode()
        self.task = asyncio.ensure_future(self._serve(path, method, self.headers, self.body))

    async def _serve(self, path: str, method: str, headers: Json, body: bytes) -> None:
        try:
            await self.engine.answer(path, method, headers, body, self)
        except Refusal as refusal:
            self.json(refusal.status, refusal.body)
        except Dropped:
            self.transport.close()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # the fake's own fault: a test must see it, not hang
            self.json(500, Refusal(500, "InternalServerError", repr(error)).body)
            raise

    # --- writing

    def _head(self, status: int, lines: list[str]) -> bytes:
        if self.engine.options.enable_request_id_headers:
            lines.append(f"x-request-id: {self.request_id}")
        fixed = ["date: Fri, 20 Nov 2026 20:00:00 GMT", "server: uvicorn"]
        return "\r\n".join([f"HTTP/1.1 {status} Status", *fixed, *lines, "", ""]).encode()

    def send(self, status: int, body: bytes, kind: str) -> None:
        lines = [f"content-length: {len(body)}"]
        if kind:
            lines.append(f"content-type: {kind}")
        self.transport.write(self._head(status, lines) + body)

    def json(self, status: int, body: Json) -> None:
        self.send(status, _dump(body), "application/json")

    def half(self, body: Json) -> None:
        data = _dump(body)
        head = self._head(200, [f"content-length: {len(data)}", "content-type: application/json"])
        self.transport.write(head + data[: len(data) // 2])

    def begin_stream(self) -> None:
        kind = "content-type: text/event-stream; charset=utf-8"
        self.transport.write(self._head(200, [kind, "transfer-encoding: chunked"]))

    def event(self, body: Json) -> None:
        self._chunk(b"data: " + _dump(body) + b"\n\n")

    def named(self, name: str, data: Json) -> None:
        self._chunk(f"event: {name}\n".encode() + b"data: " + _dump(data) + b"\n\n")

    def end_stream(self, last: bytes = b"data: [DONE]\n\n") -> None:
        if last:
            self._chunk(last)
        self.transport.write(b"0\r\n\r\n")

    async def drain(self) -> None:
        await self.writable.wait()

    def _chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def _dump(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--served-model-name", default="")
    parser.add_argument("--uds", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--runner", default="generate")
    for switch in (
        *("force-include-usage", "prompt-tokens-details", "request-id-headers"),
        *("sleep-mode", "lora"),
    ):
        parser.add_argument(f"--enable-{switch}", action="store_true")
    said = parser.parse_known_args(arguments)[0]
    said.runtime_lora = (
        said.enable_lora and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1"
    )
    return said


def options(**given: Any) -> argparse.Namespace:
    """Options for an engine in a test's own loop, with the metering flags that we always set."""
    defaults = parse(["--served-model-name", "demo"])
    defaults.enable_force_include_usage = True
    defaults.enable_prompt_tokens_details = defaults.enable_request_id_headers = True
    vars(defaults).update(given)
    return defaults


async def listen(engine: Engine) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if path := engine.options.uds:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return await loop.create_unix_server(lambda: Reply(engine), path, backlog=4096)
    listener = socket.create_server((engine.options.host, engine.options.port), backlog=4096)
    return await loop.create_server(lambda: Reply(engine), sock=listener)


async def main(arguments: list[str]) -> int:
    await asyncio.sleep(float(os.environ.get("FAKE_ENGINE_STARTUP_DELAY", "0")))
    if code := int(os.environ.get("FAKE_ENGINE_EXIT_CODE", "0")):
        print(os.environ.get("FAKE_ENGINE_LOG", "The fake engine refuses."), file=sys.stderr)
        return code
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ignore = bool(os.environ.get("FAKE_ENGINE_IGNORE_TERM"))
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if ignore else stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    engine = Engine(parse(arguments))
    server = await listen(engine)
    print("INFO:     Application startup complete.", file=sys.stderr, flush=True)
    await stop.wait()
    server.close()
    if engine.options.uds:
        with suppress(FileNotFoundError):
            os.unlink(engine.options.uds)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
