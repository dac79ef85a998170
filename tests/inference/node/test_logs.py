from pathlib import Path

from inference.node import logs
from inference.node.shim import CappedLog


def write(folder: Path, *lines: str, cap: int = 20) -> None:
    log = CappedLog(folder, cap)
    for line in lines:
        log.write(line.encode())
    log.file.close()


def test_a_log_is_cut_to_its_last_two_parts(tmp_path: Path) -> None:
    write(tmp_path, *(f"line {n:04}\n" for n in range(100)))

    assert sum(p.stat().st_size for p in tmp_path.glob("engine.log*")) < 60
    assert logs.tail(tmp_path)[-1] == "line 0099"


def test_offsets_stay_true_when_older_text_is_dropped(tmp_path: Path) -> None:
    lines = [f"line {n:04}\n" for n in range(5)]
    write(tmp_path, *lines)
    whole = "".join(lines)

    chunk = logs.read(tmp_path, 25, 1000)

    assert chunk.text == whole[25:]
    assert chunk.next_offset == len(whole)


def test_text_that_was_dropped_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, *(f"line {n:04}\n" for n in range(7)))

    chunk = logs.read(tmp_path, 0, 1000)

    assert chunk.text.startswith("line 0004") and chunk.next_offset == 70


def test_a_slice_runs_across_both_parts(tmp_path: Path) -> None:
    write(tmp_path, *(f"line {n:04}\n" for n in range(5)))

    chunk = logs.read(tmp_path, 35, 10)

    assert chunk.text == "0003\nline " and chunk.next_offset == 45


def test_an_engine_that_has_said_nothing_has_an_empty_log(tmp_path: Path) -> None:
    assert logs.read(tmp_path, None, 100) == logs.read(tmp_path, 5, 100)
    assert logs.tail(tmp_path) == []
