"""What an operator sees of the gateway: figures, traces, a log; never a word of a prompt."""

import asyncio
import dataclasses
import json
import os
from pathlib import Path

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from inference.gateway import metrics, scrape
from inference.gateway.access import AccessLog
from inference.gateway.tracing import configured, sound, tracer
from tests.gateway.house import House, chat

SECRET = "a-word-that-must-not-be-told"
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def families(text: str):
    return {family.name: family for family in text_string_to_metric_families(text)}


async def scraped(house: House):
    told = await scrape.ask_all(house.runtime._env.run_dir / metrics.FOLDER)
    return families(scrape.exposition(told, {}).decode())


def value(families, family: str, name: str, **labels) -> float:
    return sum(
        sample.value
        for sample in families[family].samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_figures_are_told_per_instance_and_organization(house: House):
    labels = {
        "instance_id": house.instance.id.hex(),
        "model": "demo",
        "endpoint": "chat/completions",
    }
    async with house.sdk() as client:
        answer = await client.chat.completions.create(**chat(SECRET))
        stream = await client.chat.completions.create(**chat(SECRET), stream=True)
        assert [chunk async for chunk in stream]
    found = await scraped(house)
    prefix = "modelport_gateway"
    requests = f"{prefix}_requests"
    assert value(found, requests, f"{requests}_total", status="200", **labels) == 2
    tokens = f"{prefix}_tokens"
    told = value(found, tokens, f"{tokens}_total", kind="completion", **labels)
    assert told == 2 * answer.usage.completion_tokens
    ttft = f"{prefix}_ttft_seconds"
    assert value(found, ttft, f"{ttft}_count", **labels) == 2
    assert value(found, ttft, f"{ttft}_bucket", le="+Inf", **labels) == 2
    assert value(found, f"{prefix}_in_flight", f"{prefix}_in_flight", **labels) == 0
    assert value(found, f"{prefix}_processes", f"{prefix}_processes") == 1
    assert value(found, f"{prefix}_journal_syncs", f"{prefix}_journal_syncs_total") > 0


async def test_processes_are_added_up_and_a_dead_one_is_passed_over(house: House):
    async with house.sdk() as client:
        await client.chat.completions.create(**chat())
    folder = house.runtime._env.run_dir / metrics.FOLDER
    (process,) = await scrape.ask_all(folder)
    twice = families(scrape.exposition([process, process], {}).decode())
    once = families(scrape.exposition([process], {}).decode())
    name = "modelport_gateway_tokens"
    assert value(twice, name, f"{name}_total") == 2 * value(once, name, f"{name}_total") > 0
    os.rename(house.runtime._told_at, folder / "1.sock")
    house.runtime._telling.close()
    assert await scrape.ask_all(folder) == []
    assert not (folder / "1.sock").exists()


async def test_series_of_deleted_instances_are_forgotten():
    book = metrics.Book()
    gone, kept = bytes([1]) * 16, bytes([2]) * 16
    for instance in (gone, kept, bytes(16)):
        book.series(bytes(16), instance, "m", "chat/completions").refuse(503)
    book.forget([kept])
    assert {figures.labels[1] for figures in book.figures()} == {kept.hex(), bytes(16).hex()}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"host": "localhost"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost", "x-forwarded-for": "127.0.0.1"}, 403),
    ],
)
def test_who_may_read_the_figures(given, status):
    answer = Client().get("/metrics", headers=given)
    assert answer.status_code == status


def test_with_a_token_only_the_token_counts(settings):

    settings.ENV = dataclasses.replace(settings.ENV, metrics_token="let-me-in")
    client = Client()
    assert client.get("/metrics", headers={"host": "localhost"}).status_code == 403
    bearer = {"authorization": "Bearer let-me-in", "host": "mp.example"}
    answer = client.get("/metrics", headers=bearer)
    assert answer.status_code == 200
    assert b"modelport_gateway_processes" in answer.content


async def test_the_access_log_tells_who_and_how_much_and_no_word(house: House, tmp_path: Path):
    path = tmp_path / "access.log"
    house.runtime.access, house.runtime.tells = AccessLog(str(path)), True
    async with house.sdk() as client:
        answer = await client.chat.completions.create(**chat(SECRET))
    await house.closed_row()
    house.runtime.access.write()
    text = path.read_text()
    (line,) = map(json.loads, text.splitlines())
    assert (line["status"], line["model"], line["endpoint"]) == (200, "demo", "chat/completions")
    assert line["completion_tokens"] == answer.usage.completion_tokens
    assert line["instance"] == house.instance.id.hex()
    assert SECRET not in text
    assert house.key not in text
    path.rename(tmp_path / "access.log.1")  # as logrotate does
    async with house.sdk() as client:
        await client.models.list()
    house.runtime.access.write()
    assert json.loads(path.read_text())["endpoint"] == "models"
    house.runtime.access.close()
    house.runtime.access = None


async def collector(received: list[bytes]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        received.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def test_a_trace_goes_on_from_the_caller_to_the_engine(house: House, monkeypatch):
    received: list[bytes] = []
    server = await collector(received)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    heads = []
    real = house.engine.answer

    async def listening(path, method, headers, raw, reply):
        heads.append(headers)
        await real(path, method, headers, raw, reply)

    house.engine.answer = listening
    house.runtime.tracer, house.runtime.tells = tracer(os.environ), True
    async with house.sdk() as client:
        await client.chat.completions.create(
            **chat(SECRET), extra_headers={"traceparent": PARENT.decode()}
        )
    await house.closed_row()
    await asyncio.to_thread(house.runtime.tracer.close)
    house.runtime.tracer = None
    server.close()
    exported = ExportTraceServiceRequest.FromString(received[0])
    (span,) = exported.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == PARENT.split(b"-")[1].decode()
    assert span.parent_span_id.hex() == PARENT.split(b"-")[2].decode()
    assert span.name == "chat demo"
    assert heads[0]["traceparent"] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert SECRET.encode() not in received[0]


async def test_without_a_collector_the_caller_s_header_goes_on(house: House):
    heads = []
    real = house.engine.answer

    async def listening(path, method, headers, raw, reply):
        heads.append(headers.get("traceparent"))
        await real(path, method, headers, raw, reply)

    house.engine.answer = listening
    async with house.sdk() as client:
        for given in (PARENT.decode(), "00-zz-evil-01"):
            await client.chat.completions.create(**chat(), extra_headers={"traceparent": given})
    assert heads == [PARENT.decode(), None]


def test_traces_are_off_unless_a_collector_is_named():
    assert not configured({})
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert configured(named)
    assert not configured(named | {"OTEL_SDK_DISABLED": "true"})


@given(st.binary(max_size=80))
def test_only_a_sound_header_is_continued(given):
    assert sound(given) in {b"", given}
    assert sound(PARENT) == PARENT
    assert sound(PARENT + b"-x") == b""
    assert sound(PARENT.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32)) == b""
