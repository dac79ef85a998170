"""A span follows its caller's wish, and a collector that fails costs nobody anything."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from billing.usage_record import Usage
from inference.gateway import tracing
from inference.gateway.tracing import Tracer, tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
USED = Usage(7, 5, 4, 3)


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        raw = await reader.readexactly(length)
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()


@asynccontextmanager
async def collecting(monkeypatch, collector: Collector) -> AsyncIterator[Tracer]:
    server = await asyncio.start_server(collector.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    made = tracer(os.environ)
    assert made is not None
    try:
        yield made
        await asyncio.to_thread(made.close)
    finally:
        server.close()


def begin(of: Tracer, flags: str = "01") -> tracing.Span:
    parent = f"00-{TRACE}-00f067aa0ba902b7-{flags}".encode()
    return of.begin(parent, b"req-1", time.monotonic())


async def test_a_span_tells_the_model_and_the_usage(monkeypatch):
    collector = Collector()
    async with collecting(monkeypatch, collector) as made:
        span = begin(made)
        span.end(200, USED, "demo", "chat/completions", "the-instance")
    (got,) = collector.spans
    told = {each.key: each.value for each in got.attributes}
    assert (got.name, got.kind) == ("chat demo", Span.SPAN_KIND_SERVER)
    assert told["gen_ai.operation.name"].string_value == "chat"
    assert told["gen_ai.usage.input_tokens"].int_value == 7
    assert told["gen_ai.usage.output_tokens"].int_value == 5
    assert told["gen_ai.usage.cache_read.input_tokens"].int_value == 4
    assert told["gen_ai.usage.reasoning.output_tokens"].int_value == 3
    assert got.status.code == Status.STATUS_CODE_UNSET


async def test_our_failure_is_one_and_a_client_s_is_not(monkeypatch):
    collector = Collector()
    async with collecting(monkeypatch, collector) as made:
        begin(made).end(503, Usage(), "demo", "completions", "")
        begin(made).end(400, Usage(), "", "", "")
    codes = {span.name: span.status.code for span in collector.spans}
    assert codes == {
        "text_completion demo": Status.STATUS_CODE_ERROR,
        "request": Status.STATUS_CODE_UNSET,
    }


async def test_a_caller_who_does_not_sample_is_heard_and_passed_on(monkeypatch):
    collector = Collector()
    async with collecting(monkeypatch, collector) as made:
        span = begin(made, flags="00")
        span.end(200, USED, "demo", "chat/completions", "")
    assert collector.spans == []
    assert span.header.startswith(f"00-{TRACE}-".encode())
    assert span.header.endswith(b"-00")


def test_a_collector_that_hangs_holds_up_no_stop(monkeypatch):
    """The library's own stop waits until it gives the export up, here after some seconds."""
    monkeypatch.setattr(tracing, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, says nothing
        port = mute.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        made = Tracer()
        begin(made).end(200, USED, "demo", "chat/completions", "")
        made.close()
        (still,) = (each for each in threading.enumerate() if each.name == "last spans")
    still.join(10)
    assert not still.is_alive()
