"""Traces that go on from the caller's: one span for each request, without any of its text.

The caller's `traceparent` (https://www.w3.org/TR/trace-context/) is continued and handed on to the
engine, which has spans of its own. Spans are exported by OpenTelemetry's library, from a thread of
its own, if its usual variable OTEL_EXPORTER_OTLP_ENDPOINT names a collector; else nothing of it is
loaded, and the caller's header goes on to the engine as it came.
"""

import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from billing.usage_record import Usage

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CLOSE_TIMEOUT = 3.0  # seconds that a stop waits for the collector; spans may be lost, time may not
_PARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})").fullmatch

# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
OPERATIONS = {
    "chat/completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}


def sound(traceparent: bytes) -> bytes:
    """The header if it is one of version 00, else nothing: a wrong one begins a new trace."""
    return traceparent if _PARENT(traceparent) else b""


def configured(environ: Mapping[str, str]) -> bool:
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not off and any(environ.get(name, "").strip() for name in ENDPOINTS)


class Span:
    """One request on its way."""

    __slots__ = ("_failed", "_span", "header")

    def __init__(self, span: Any, header: bytes, failed: Any) -> None:
        self._span = span
        self._failed = failed
        self.header = header  # `traceparent` for the engine

    def end(self, status: int, used: Usage, model: str, endpoint: str, instance: str) -> None:
        """Attributes by OpenTelemetry's conventions for generative AI; none of them is text."""
        span = self._span
        if span.is_recording():
            operation = OPERATIONS.get(endpoint, endpoint) or "request"
            span.update_name(f"{operation} {model}" if model else operation)
            span.set_attributes(
                {
                    "http.response.status_code": status,
                    "gen_ai.operation.name": operation,
                    "gen_ai.request.model": model,
                    "gen_ai.usage.input_tokens": used.prompt_tokens,
                    "gen_ai.usage.output_tokens": used.completion_tokens,
                    "gen_ai.usage.cache_read.input_tokens": used.cached_tokens,
                    "gen_ai.usage.reasoning.output_tokens": used.reasoning_tokens,
                    "modelport.instance": instance,
                }
            )
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(self._failed)
        span.end()


class Tracer:
    """Begins spans; ends with the process."""

    def __init__(self) -> None:
        # Here, not above: a process that traces nothing loads nothing of it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        name = os.environ.get("OTEL_SERVICE_NAME", "modelport-gateway")
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create({"service.name": name}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("modelport.gateway")
        self._extract = TraceContextTextMapPropagator().extract
        self._kind, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def begin(self, traceparent: bytes, request_id: bytes, received: float) -> Span:
        """`received` is when the request was here, in monotonic seconds."""
        carrier = {"traceparent": traceparent.decode()} if traceparent else {}
        span = self._tracer.start_span(
            "request",
            self._extract(carrier),
            kind=self._kind,
            start_time=time.time_ns() - round((time.monotonic() - received) * 1e9),
            attributes={"modelport.request_id": request_id.decode()},
        )
        context = span.get_span_context()
        header = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return Span(span, header.encode(), self._failed)

    def close(self) -> None:
        """Export what is left, or give it up: the library itself would wait half a minute for a
        collector that hangs, and a deploy with it."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(CLOSE_TIMEOUT)


def tracer(environ: Mapping[str, str]) -> Tracer | None:
    """The tracer, or None where no collector is configured."""
    return Tracer() if configured(environ) else None
