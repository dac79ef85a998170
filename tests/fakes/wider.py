"""The fake engine's newer endpoints, as vLLM 0.32 answered them: responses, messages, scores."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

Json = dict[str, Any]
Handler = Callable[..., Coroutine[Any, Any, None]]


class Wider:
    """Mixed into the engine, which has `_body`, `_render`, `request_for` and its counters."""

    keeps = False  # VLLM_ENABLE_RESPONSES_API_STORE

    def __init__(self) -> None:
        self.responses: dict[str, Json] = {}
        self.keeps = os.environ.get("VLLM_ENABLE_RESPONSES_API_STORE") == "1"

    def wider_routes(self, method: str, path: str, *, pooling: bool) -> Handler | None:
        if pooling:
            routes = {"/v1/rerank": self._rerank, "/v1/score": self._score}
            return routes.get(path) if method == "POST" else None
        if path.startswith("/v1/responses/"):
            id_, _, action = path.removeprefix("/v1/responses/").partition("/")
            return lambda raw, headers, reply: self._stored(id_, action, reply)
        routes = {
            "/v1/responses": self._responses,
            "/v1/messages": self._messages,
            "/v1/messages/count_tokens": self._count_tokens,
        }
        return routes.get(path) if method == "POST" else None

    # --- responses

    async def _responses(self, raw: bytes, headers: Json, reply: Any) -> None:
        body = self._body(raw)
        said = body.get("input", "")
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        if body.get("instructions"):
            messages = [{"role": "system", "content": body["instructions"]}, *messages]
        if body.get("background") and not self.keeps:
            raise self.bad("Background mode requires the store.", "background")
        body["max_tokens"] = body.get("max_output_tokens")
        request = self.request_for(body, messages)
        response = {
            "id": f"resp_{uuid4().hex[:16]}",
            "created_at": int(time.time()),
            "incomplete_details": None,
            "model": self.name,
            "object": "response",
            "output": [],
            "background": bool(body.get("background")),
            "status": "in_progress",
            "usage": None,
        }
        if self.keeps:
            self.responses[response["id"]] = response
        cached = self.admit(request.prompt, 1)
        if body.get("background"):
            response["status"] = "queued"
            reply.json(200, response)
            asyncio.get_running_loop().create_task(self._make(request, response, cached))
        elif body.get("stream"):
            await self._responses_stream(request, response, cached, reply)
        else:
            await self._make(request, response, cached)
            reply.json(200, response)

    async def _make(self, request: Any, response: Json, cached: int) -> None:
        for _ in request.pieces:
            await asyncio.sleep(request.knob("delay", self.delay))
            self.counters["generation_tokens_total"] += 1
        self._close(request, response, cached)

    def _close(self, request: Any, response: Json, cached: int) -> None:
        text = "".join(request.pieces)
        content = [{"annotations": [], "text": text, "type": "output_text", "logprobs": None}]
        item = {"id": f"msg_{uuid4().hex[:16]}", "content": content, "role": "assistant"}
        cut = request.finish_reason == "length"
        response |= {
            "output": [item | {"status": "completed", "type": "message", "phase": None}],
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": len(request.prompt),
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": len(request.pieces),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": len(request.prompt) + len(request.pieces),
            },
        }

    async def _responses_stream(
        self, request: Any, response: Json, cached: int, reply: Any
    ) -> None:
        number = iter(range(10**6))

        def event(kind: str, **given: Any) -> None:
            data = given | {"sequence_number": next(number), "type": kind}
            reply.named(kind, data)

        reply.begin_stream()
        event("response.created", response=dict(response))
        event("response.in_progress", response=dict(response))
        where = {"content_index": 0, "item_id": "msg_1", "output_index": 0}
        for count, piece in enumerate(request.pieces):
            await asyncio.sleep(request.knob("delay", self.delay))
            if request.knob("drop_after") and count >= request.knob("drop_after"):
                reply.transport.close()
                return
            self.counters["generation_tokens_total"] += 1
            event("response.output_text.delta", **where, delta=piece, logprobs=[])
            await reply.drain()
        self._close(request, response, cached)
        event("response.completed", response=response)
        reply.end_stream(b"")

    async def _stored(self, id_: str, action: str, reply: Any) -> None:
        response = self.responses.get(id_)
        if response is None:
            message = f"Response with id '{id_}' not found."
            error = {"message": message, "type": "invalid_request_error", "param": "response_id"}
            reply.json(404, {"error": error | {"code": 404}})
        elif action == "cancel" and response["status"] not in {"queued", "in_progress"}:
            raise self.bad("Cannot cancel a synchronous response.", "response_id")
        else:
            if action == "cancel":
                response["status"] = "cancelled"
            reply.json(200, response)

    # --- messages

    def _asked(self, raw: bytes) -> tuple[Json, list[Json]]:
        body = self._body(raw)
        messages = body.get("messages") or []
        if body.get("system"):
            messages = [{"role": "system", "content": body["system"]}, *messages]
        return body, messages

    async def _messages(self, raw: bytes, headers: Json, reply: Any) -> None:
        body, messages = self._asked(raw)
        if "max_tokens" not in body:
            raise self.bad("1 validation error: body.max_tokens: Field required", "max_tokens")
        request = self.request_for(body, messages)
        cached = self.admit(request.prompt, 1)
        stop = "max_tokens" if request.finish_reason == "length" else "end_turn"
        usage = {
            "input_tokens": len(request.prompt) - cached,
            "output_tokens": len(request.pieces),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
        }
        message = {
            "id": f"chatcmpl-{reply.request_id}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.name,
        }
        if not body.get("stream"):
            self.counters["generation_tokens_total"] += len(request.pieces)
            content = [{"type": "text", "text": "".join(request.pieces)}]
            reply.json(200, message | {"content": content, "stop_reason": stop, "usage": usage})
            return
        reply.begin_stream()
        first = {"input_tokens": len(request.prompt), "output_tokens": 0}
        begun = message | {"stop_reason": None, "stop_sequence": None, "usage": first}
        reply.named("message_start", {"type": "message_start", "message": begun})
        block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
        reply.named("content_block_start", block | {"index": 0})
        for count, piece in enumerate(request.pieces):
            await asyncio.sleep(request.knob("delay", self.delay))
            if request.knob("drop_after") and count >= request.knob("drop_after"):
                reply.transport.close()
                return
            self.counters["generation_tokens_total"] += 1
            delta = {"type": "text_delta", "text": piece}
            data = {"type": "content_block_delta", "delta": delta, "index": 0}
            reply.named("content_block_delta", data)
            await reply.drain()
        reply.named("content_block_stop", {"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": stop, "stop_sequence": None}
        reply.named("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
        reply.named("message_stop", {"type": "message_stop"})
        reply.end_stream(b"")

    async def _count_tokens(self, raw: bytes, headers: Json, reply: Any) -> None:
        body, messages = self._asked(raw)
        count = len(self.request_for(body, messages).prompt)
        managed = {"original_input_tokens": count}
        reply.json(200, {"input_tokens": count, "context_management": managed})

    # --- scores

    async def _rerank(self, raw: bytes, headers: Json, reply: Any) -> None:
        body = self._body(raw)
        documents = (
            body["documents"] if isinstance(body["documents"], list) else [body["documents"]]
        )
        count = sum(len(str(text).split()) for text in [body["query"], *documents])
        self.counters["prompt_tokens_total"] += count
        results = [
            {"index": i, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.5}
            for i, text in enumerate(documents)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        head = {"id": f"rerank-{reply.request_id}", "model": self.name, "usage": usage}
        reply.json(200, head | {"results": results[: body.get("top_n") or None]})

    async def _score(self, raw: bytes, headers: Json, reply: Any) -> None:
        body = self._body(raw)
        others = body["text_2"] if isinstance(body["text_2"], list) else [body["text_2"]]
        count = sum(len(str(text).split()) for text in [body["text_1"], *others])
        self.counters["prompt_tokens_total"] += count
        data = [{"index": i, "object": "score", "score": 0.5} for i, _ in enumerate(others)]
        usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}
        head = {"id": f"score-{reply.request_id}", "object": "list", "created": int(time.time())}
        reply.json(200, head | {"model": self.name, "data": data, "usage": usage})
