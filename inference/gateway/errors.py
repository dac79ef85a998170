"""Errors in OpenAI's shape. PURE. https://platform.openai.com/docs/guides/error-codes

The stock SDKs choose the exception by the status and show `message`; programs branch on `code`.
"""

from typing import Any

import msgspec


class Refusal(Exception):
    """The request ends here: an HTTP status, an OpenAI error body, perhaps a Retry-After (s)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        return body(self.status, self.message, code=self.code, param=self.param)


TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
    """An OpenAI error body."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def of_engine(status: int, raw: bytes) -> bytes:
    """An engine's error body in OpenAI's shape. vLLM has three shapes of its own."""
    try:
        said: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        param = error.get("param")
        code = error.get("code")
        if status == 400 and "maximum context length" in error["message"]:
            code = "context_length_exceeded"
        return body(
            status,
            error["message"],
            param=param if isinstance(param, str) else None,
            code=code if isinstance(code, str) else None,
        )
    if status >= 500:
        return body(status, "The engine failed on this request.", code="engine_error")
    if status == 404:
        return body(status, "The engine does not offer this.", code="unsupported_endpoint")
    detail = said.get("detail") if isinstance(said, dict) else None
    text = detail if isinstance(detail, str) else "The engine refused this request."
    return body(status, text)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def invalid_key(message: str) -> Refusal:
    return Refusal(401, message, code="invalid_api_key")


def no_such_model(model: str) -> Refusal:
    text = f"The model `{model}` does not exist or this key may not use it."
    return Refusal(404, text, code="model_not_found", param="model")
