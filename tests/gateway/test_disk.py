"""fdatasync by the kernel, without a thread of ours."""

import asyncio
import os

import pytest
import uvloop

from billing.usage_record import Final, Outcome, Usage, UsageSource
from inference.gateway import disk, journal
from inference.gateway.journal import Journal
from portal.lib.ids import uuid7

PATIENCE = 60  # seconds; a disk that others use may take its time


@pytest.fixture
async def kernel():
    made = disk.kernel_sync(asyncio.get_running_loop())
    if made is None:
        pytest.skip("this kernel has no asynchronous fdatasync")
    yield made
    made.close()


async def synced(kernel: disk.KernelSync, fd: int) -> bool:
    told = asyncio.get_running_loop().create_future()
    kernel.sync(fd, told.set_result)
    return await asyncio.wait_for(told, PATIENCE)


async def test_a_file_is_synced_and_that_is_told(kernel, tmp_path):
    with (tmp_path / "file").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 1000)
            assert await synced(kernel, file.fileno()) is True


async def test_many_at_a_time_are_told_each_its_own(kernel, tmp_path):
    files = [(tmp_path / str(n)).open("wb", buffering=0) for n in range(disk.MOST)]
    told = await asyncio.gather(*(synced(kernel, file.fileno()) for file in files))
    assert told == [True] * disk.MOST
    for file in files:
        file.close()


async def test_what_cannot_be_synced_is_told_in_a_later_turn(kernel):
    reading, writing = os.pipe()
    seen = []
    kernel.sync(writing, seen.append)
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [False]
    assert await synced(kernel, 10_000) is False
    os.close(reading)
    os.close(writing)


async def test_closing_waits_for_what_is_under_way(tmp_path):
    kernel = disk.kernel_sync(asyncio.get_running_loop())
    if kernel is None:
        pytest.skip("this kernel has no asynchronous fdatasync")
    seen = []
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"x" * 100_000)
        kernel.sync(file.fileno(), seen.append)
        kernel.close()
    assert seen == [True]


def final() -> Final:
    return Final(
        uuid7().bytes, Usage(1, 2), UsageSource.ENGINE, Outcome.COMPLETED, 200, "stop", 1, 2
    )


@pytest.mark.parametrize("by_the_kernel", [True, False])
def test_the_journal_keeps_what_it_has_told_over_many_files(tmp_path, monkeypatch, by_the_kernel):
    if not by_the_kernel:  # as where it does not offer it
        monkeypatch.setattr(disk, "kernel_sync", lambda loop: None)

    async def write() -> list[bytes]:
        book = Journal(tmp_path, asyncio.get_running_loop(), rotate_bytes=2000)
        assert (book._kernel is not None) == by_the_kernel
        told = []
        for _ in range(40):
            done = [asyncio.get_running_loop().create_future() for _ in range(5)]
            records = [final() for _ in done]
            for record, each in zip(records, done, strict=True):
                book.final(record, each.set_result)
            assert await asyncio.wait_for(asyncio.gather(*done), PATIENCE) == [True] * 5
            told += [record.request_id for record in records]
        assert book.syncs > 0
        book.close()
        return told

    told = uvloop.run(write())
    kept = [record.request_id for _, record in journal.records(tmp_path)]
    assert kept == told
    assert len(journal.files(tmp_path)) > 3
