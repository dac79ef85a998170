"""The journal loses nothing that was written and invents nothing that was not."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage_record import Admit, Checkpoint, Final, Outcome, Usage, UsageSource
from inference.gateway import journal
from inference.gateway.journal import Journal, JournalProblem

FIXED = {"organization_id": b"o" * 16, "key_id": b"k" * 16, "instance_id": b"i" * 16}


def admit(number: int) -> Admit:
    return Admit(
        request_id=number.to_bytes(16, "big"),
        replica_id=b"r" * 16,
        model="demo",
        endpoint="chat/completions",
        stream=True,
        admitted_at_us=journal.now_us(),
        **FIXED,
    )


def checkpoint(number: int, completion: int) -> Checkpoint:
    return Checkpoint(number.to_bytes(16, "big"), Usage(7, completion))


def final(number: int) -> Final:
    return Final(
        number.to_bytes(16, "big"),
        Usage(7, 9),
        UsageSource.ENGINE,
        Outcome.COMPLETED,
        200,
        "stop",
        1000,
        2000,
    )


async def finish(log: Journal, number: int) -> bool:
    done = asyncio.get_running_loop().create_future()
    log.final(final(number), done.set_result)
    return await done


def everything(folder: Path) -> list[object]:
    return [record for _, record in journal.records(folder)]


async def test_what_was_written_is_read_back_in_order(tmp_path):
    log = Journal(tmp_path, asyncio.get_running_loop())
    records = [admit(1), checkpoint(1, 3), admit(2)]
    log.admit(records[0])
    log.checkpoint(records[1])
    log.admit(records[2])
    assert await finish(log, 1)
    assert everything(tmp_path) == [*records, final(1)]
    log.close()


async def test_a_final_is_on_disk_before_its_callback_runs(tmp_path, monkeypatch):
    order = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), order.append("synced")))
    log = Journal(tmp_path, asyncio.get_running_loop())
    log.admit(admit(1))
    order.append(await finish(log, 1))
    assert order == ["synced", True]
    log.close()


async def test_finals_of_one_turn_of_the_loop_share_a_sync(tmp_path, monkeypatch):
    syncs = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    log = Journal(tmp_path, asyncio.get_running_loop())
    for number in range(50):
        log.admit(admit(number))
    assert all(await asyncio.gather(*[finish(log, number) for number in range(50)]))
    assert len(syncs) == 1
    log.close()


async def test_a_final_in_a_hurry_does_not_stand_before_its_admit(tmp_path):
    log = Journal(tmp_path, asyncio.get_running_loop())
    written = []
    record = admit(1)
    log.admit(record, written.append)  # put off to the next turn
    ended = asyncio.get_running_loop().create_future()
    log.final(final(1), ended.set_result)
    # A turn so long that the FINAL's timer is due before the ADMIT's.
    time.sleep(3 * journal.GATHER)  # noqa: ASYNC251
    assert await ended
    assert written == [True]
    assert everything(tmp_path) == [record, final(1)]
    assert log.open_requests == 0
    log.close()


async def test_a_full_disk_refuses_admission_and_owes_the_finals(tmp_path, monkeypatch):
    log = Journal(tmp_path, asyncio.get_running_loop())
    log.admit(admit(1))
    real = os.write

    def full(fd: int, data: bytes) -> int:
        return real(fd, data[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalProblem):
        log.admit(admit(2))
    assert not await finish(log, 1)
    monkeypatch.setattr(os, "write", real)
    log.admit(admit(3))
    assert await finish(log, 3)
    assert [r.request_id[-1] for r in everything(tmp_path)] == [1, 3, 1, 3]
    assert journal.read(log.path).damaged == 0
    log.close()


async def test_a_rotated_file_is_not_needed_to_understand_the_next(tmp_path):
    log = Journal(tmp_path, asyncio.get_running_loop(), rotate_bytes=4000)
    log.admit(admit(1))
    log.checkpoint(checkpoint(1, 1))
    log.checkpoint(checkpoint(1, 2))
    for number in range(2, 100):
        log.admit(admit(number))
        assert await finish(log, number)
    assert await finish(log, 1)
    names = journal.files(tmp_path)
    assert len(names) > 3
    for path in names:
        known = set()
        for record in journal.read(path).records:
            if isinstance(record, Admit):
                known.add(record.request_id)
            assert record.request_id in known
    finals = [r.request_id for r in everything(tmp_path) if isinstance(r, Final)]
    assert len(finals) == len(set(finals)) == 99
    newest = [r for r in journal.read(names[-2]).records if isinstance(r, Checkpoint)]
    assert newest == [checkpoint(1, 2)]
    log.close()


async def test_every_file_of_a_live_writer_is_alive_and_none_after_it_ends(tmp_path):
    log = Journal(tmp_path, asyncio.get_running_loop(), rotate_bytes=500)
    for number in range(20):
        log.admit(admit(number))
        assert await finish(log, number)
    names = journal.files(tmp_path)
    assert len(names) > 2
    assert all(journal.is_alive(path) for path in names)
    log.close()
    assert not any(journal.is_alive(path) for path in names)


KILLED = """
import asyncio, sys, pathlib, time
from inference.gateway.journal import Journal
from tests.gateway.test_journal import admit
async def main():
    log = Journal(pathlib.Path(sys.argv[1]), asyncio.get_running_loop())
    log.admit(admit(5))
    print("written", flush=True)
    time.sleep(60)
asyncio.run(main())
"""


def test_an_admission_survives_the_kill_of_its_gateway(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": ""},
    )
    assert process.stdout.readline() == b"written\n"
    (path,) = journal.files(tmp_path)
    assert journal.is_alive(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not journal.is_alive(path)
    assert everything(tmp_path)[0].request_id == (5).to_bytes(16, "big")


# ------------------------------------------------------------------ cuts, flips and forgeries


def written(folder: Path) -> tuple[Path, list[object], list[int]]:
    """A file of six records, and where each of its frames begins, the end included."""

    async def main() -> Path:
        log = Journal(folder, asyncio.get_running_loop(), durable=False)
        for number in (1, 2):
            log.admit(admit(number))
            log.checkpoint(checkpoint(number, 4))
            await finish(log, number)
        log.close()
        return log.path

    path = asyncio.run(main())
    data, starts = path.read_bytes(), [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + 8 + int.from_bytes(data[starts[-1] : starts[-1] + 4], "little"))
    return path, journal.read(path).records, starts


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return written(tmp_path_factory.mktemp("journal"))


def test_a_cut_at_every_byte_leaves_the_whole_records_before_it(sample, tmp_path):
    path, records, starts = sample
    data = path.read_bytes()
    cut = tmp_path / path.name
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        whole = sum(start <= length for start in starts[1:])
        batch = journal.read(cut)
        assert batch.records == records[:whole]
        assert (batch.offset, batch.damaged) == (starts[whole], 0)
        assert batch.tail == length - starts[whole]
        cut.write_bytes(data)  # the writer goes on
        rest = journal.read(cut, batch.offset)
        assert batch.records + rest.records == records


def test_every_flipped_bit_costs_one_record_and_is_reported(sample, tmp_path):
    path, records, starts = sample
    data = path.read_bytes()
    flipped = tmp_path / path.name
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(broken)
        batch = journal.read(flipped)
        hit = sum(start <= bit // 8 for start in starts) - 1
        assert batch.records == records[:hit] + records[hit + 1 :]
        assert batch.damaged + batch.tail == starts[hit + 1] - starts[hit]


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=400), at=st.integers(0, 10_000))
def test_noise_never_becomes_a_record(noise, at):
    with tempfile.TemporaryDirectory() as folder:
        path, records, starts = written(Path(folder))
        data = path.read_bytes()
        at = at % (len(data) + 1)
        path.write_bytes(data[:at] + noise + data[at:])
        found = journal.read(path).records
        assert all(record in records for record in found)
        assert len(found) >= len(records) - 1


async def test_a_frame_smuggled_in_as_text_is_not_a_record(tmp_path, sample):
    """A client's own X-Request-Id is in the journal; a whole frame inside it must not count."""
    path, _, starts = sample
    frame = path.read_bytes()[starts[2] : starts[3]]
    log = Journal(tmp_path, asyncio.get_running_loop())
    record = admit(1)
    record.client_request_id = frame.decode("latin-1")
    log.admit(record)
    log.close()
    data = bytearray(log.path.read_bytes())
    data[3] = 0x7F  # break the outer frame, so that the reader looks inside it
    log.path.write_bytes(bytes(data))
    assert journal.read(log.path).records == []


def test_a_window_of_nothing_but_damage_is_passed_over(tmp_path, sample):
    path, records, starts = sample
    data = path.read_bytes()
    big = tmp_path / path.name
    big.write_bytes(b"\xff" * 30_000 + data)
    offset, found, damaged = 0, [], 0
    while (batch := journal.read(big, offset, limit=8192)).offset > offset:
        found += batch.records
        damaged += batch.damaged
        offset = batch.offset
    assert (found, damaged) == (records, 30_000)
