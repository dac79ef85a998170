"""The meter ships every finished request once and settles what dead gateways left open."""

import asyncio
import fcntl
import json
import threading
import time
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from accounts.models import Organization
from billing import usage
from billing.models import UsageEvent
from billing.usage_record import Admit, Checkpoint, Outcome, Usage, UsageSource
from inference import meter as meter_module
from inference.gateway.journal import Journal, files
from inference.gateway.machine import REFUSED, figures
from inference.meter import Meter, run
from tests.billing.records import admit, final


@pytest.fixture
def loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def journal(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Journal:
    journal = Journal(tmp_path, loop, durable=False)
    yield journal
    journal.close()


def write_final(journal: Journal, loop: asyncio.AbstractEventLoop, request: Admit) -> None:
    done = loop.create_future()
    journal.final(final(request), done.set_result)
    assert loop.run_until_complete(done)


def row_of(request: Admit) -> UsageEvent:
    return UsageEvent.objects.get(request_id=UUID(bytes=request.request_id))


def test_finished_requests_are_shipped_while_the_gateway_lives(
    acme: Organization, journal: Journal, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    done, still_open = admit(acme), admit(acme)
    journal.admit(done)
    journal.admit(still_open)
    write_final(journal, loop, done)
    meter = Meter(tmp_path)
    assert meter.ship() == 1
    assert meter.ship() == 0
    assert row_of(done).completion_tokens == 9
    assert UsageEvent.objects.count() == 1
    assert files(tmp_path) == [journal.path]


def test_a_dead_gateways_open_requests_settle_from_their_last_checkpoint(
    acme: Organization, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, loop, durable=False)
    streaming, silent = admit(acme), admit(acme)
    for request in (streaming, silent):
        journal.admit(request)
    for tokens in (3, 5):
        journal.checkpoint(Checkpoint(streaming.request_id, Usage(7, tokens)))
    journal.close()

    assert Meter(tmp_path).ship() == 2
    row = row_of(streaming)
    assert (row.completion_tokens, row.source) == (5, UsageSource.CHECKPOINT)
    assert row.outcome == Outcome.GATEWAY_DIED
    row = row_of(silent)
    assert (row.prompt_tokens, row.completion_tokens, row.source) == (0, 0, UsageSource.NONE)
    assert files(tmp_path) == []


def test_rotated_files_go_once_they_are_shipped(
    acme: Organization, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, loop, durable=False, rotate_bytes=300)
    requests = [admit(acme) for _ in range(10)]
    for request in requests:
        journal.admit(request)
        write_final(journal, loop, request)
    assert len(files(tmp_path)) > 2
    Meter(tmp_path).ship()
    assert files(tmp_path) == [journal.path]
    journal.close()
    Meter(tmp_path).ship()
    assert UsageEvent.objects.count() == 10


def test_a_database_that_is_away_delays_and_loses_nothing(
    acme: Organization,
    journal: Journal,
    loop: asyncio.AbstractEventLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = admit(acme)
    journal.admit(request)
    write_final(journal, loop, request)
    meter = Meter(tmp_path)

    def away(batch: object, writer: str) -> None:
        raise OperationalError("the server is away")

    with monkeypatch.context() as patched:
        patched.setattr(usage, "ingest", away)
        with pytest.raises(OperationalError):
            meter.ship()
    journal.close()
    meter.ship()
    assert row_of(request).prompt_tokens == 7
    assert files(tmp_path) == []


@pytest.mark.django_db(transaction=True)
def test_a_row_that_no_database_takes_is_kept_for_a_person(
    acme: Organization, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, loop, durable=False)
    wrong = admit(acme)
    journal.admit(wrong)
    journal.checkpoint(Checkpoint(wrong.request_id, Usage(1, 1, cached_tokens=2)))
    journal.close()
    Meter(tmp_path).ship()
    kept = json.loads((tmp_path / REFUSED).read_text())
    assert "usage_subsets_are_subsets" in kept["why"]


@pytest.mark.django_db(transaction=True)
def test_a_stop_ships_what_is_left_first(
    acme: Organization, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    stop = threading.Event()

    def work() -> None:
        try:
            run(stop, tmp_path, tmp_path / "meter.sock", settings.ENV.database)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    while not held(tmp_path / ".meter.lock"):
        time.sleep(0.01)
    journal = Journal(tmp_path, loop, durable=False)
    request = admit(acme)
    journal.admit(request)
    write_final(journal, loop, request)
    journal.close()
    stop.set()
    thread.join()
    assert row_of(request).prompt_tokens == 7
    assert files(tmp_path) == []
    assert figures(tmp_path)["meter_behind_seconds"] < 60


def held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_one_meter_works_on_a_folder(tmp_path: Path) -> None:
    stop = threading.Event()
    with meter_module.only_meter(tmp_path, stop) as first:
        assert first
        stop.set()
        with meter_module.only_meter(tmp_path, stop) as second:
            assert not second
