"""The access log: one line of JSON for each request, without a word of what was said.

Lines are gathered and written a few times a second, off the way of requests. The file is opened
anew when it was moved away, as logrotate does.
"""

import sys
from datetime import datetime
from logging.handlers import WatchedFileHandler

import msgspec

MOST_LINES = 100_000  # that wait to be written; what comes on top is left out and counted


class Line(msgspec.Struct, omit_defaults=True):
    """Durations are in milliseconds."""

    time: datetime
    request_id: str
    status: int
    endpoint: str
    organization: str = ""
    key: str = ""
    model: str = ""
    instance: str = ""
    client_request_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    ttft_ms: float | None = None
    duration_ms: float = 0.0


_encode = msgspec.json.Encoder().encode


class AccessLog:
    """Lines on their way to a file, or to standard output (`-`)."""

    def __init__(self, path: str) -> None:
        self._lines: list[Line] = []
        self._left_out = 0
        self._file = None if path == "-" else WatchedFileHandler(path, delay=True)

    def add(self, line: Line) -> None:
        if len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self._left_out += 1

    def write(self) -> None:
        """Write what has been gathered. A disk that is full loses lines, never requests."""
        lines, self._lines = self._lines, []
        left_out, self._left_out = self._left_out, 0
        if not lines and not left_out:
            return
        text = b"\n".join([*map(_encode, lines), b""]).decode()
        if left_out:
            text += f'{{"left_out":{left_out}}}\n'
        try:
            if self._file is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                self._file.reopenIfNeeded()
                if self._file.stream is None:
                    self._file.stream = self._file._open()
                self._file.stream.write(text)
                self._file.stream.flush()
        except OSError as error:
            print(f"the access log cannot be written: {error}", file=sys.stderr)

    def close(self) -> None:
        self.write()
        if self._file is not None:
            self._file.close()
