"""Errors in the caller's shape. PURE. https://platform.openai.com/docs/guides/error-codes

The stock SDKs choose the exception by the status and show `message`; programs branch on `code`.
Calls to `/v1/messages` are answered as Anthropic answers them:
https://docs.anthropic.com/en/api/errors
"""

from typing import Any, Literal

import msgspec

Shape = Literal["openai", "anthropic"]


class Refusal(Exception):
    """The request ends here: an HTTP status, an error body, perhaps a Retry-After (s).

    `headers` are whole lines, each with its end. `scope` says whose limit was met, if one was.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: bytes = b"",
        scope: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.headers = headers
        self.scope = scope

    def body(self, shape: Shape = "openai") -> bytes:
        return body(self.status, self.message, code=self.code, param=self.param, shape=shape)

    def lines(self) -> bytes:
        """The header lines that go with it."""
        if self.retry_after is None:
            return self.headers
        return b"Retry-After: %d\r\n%b" % (self.retry_after, self.headers)


NO_TEMPLATE = "default chat template is no longer allowed"  # transformers', by way of vLLM
CANNOT_CHAT = (
    "This model has no chat template, so it continues texts and cannot chat. Ask /v1/completions, "
    "or deploy its instruction-tuned edition."
)
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


# What engines say of a prompt that is longer than their context.
TOO_LONG = ("maximum context length", "exceeds the available context size")


def body(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    shape: Shape = "openai",
) -> bytes:
    """An error body."""
    if shape == "anthropic":
        kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if code == "insufficient_quota":
        kind = code  # as OpenAI's users know it
    error = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def event(status: int, message: str, *, code: str | None = None, shape: Shape = "openai") -> bytes:
    """The event that ends a stream by an error."""
    return as_event(body(status, message, code=code, shape=shape), shape)


def as_event(raw: bytes, shape: Shape = "openai") -> bytes:
    """An error's body as the event that ends a stream."""
    name = b"event: error\n" if shape == "anthropic" else b""
    lines = b"".join(b"data: %b\n" % line for line in raw.splitlines())
    return name + lines + b"\n"


def of_engine(status: int, raw: bytes, shape: Shape = "openai") -> bytes:
    """An engine's error body in the caller's shape. vLLM has three shapes of its own."""
    try:
        said: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        if status == 400 and NO_TEMPLATE in error["message"]:
            return body(400, CANNOT_CHAT, code="no_chat_template", param="messages", shape=shape)
        param = error.get("param")
        code = error.get("code")
        if status == 400 and any(words in error["message"] for words in TOO_LONG):
            code = "context_length_exceeded"
        return body(
            status,
            error["message"],
            param=param if isinstance(param, str) else None,
            code=code if isinstance(code, str) else None,
            shape=shape,
        )
    if status >= 500:
        text = "The engine failed on this request."
        return body(status, text, code="engine_error", shape=shape)
    if status == 404:
        text = "The engine does not offer this."
        return body(status, text, code="unsupported_endpoint", shape=shape)
    detail = said.get("detail") if isinstance(said, dict) else None
    text = detail if isinstance(detail, str) else "The engine refused this request."
    return body(status, text, shape=shape)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def invalid_key(message: str) -> Refusal:
    return Refusal(401, message, code="invalid_api_key")


def no_such_model(model: str) -> Refusal:
    text = f"The model `{model}` does not exist or this key may not use it."
    return Refusal(404, text, code="model_not_found", param="model")
