"""How long a download still takes, from how fast it has been of late. PURE."""

from collections import deque

WINDOW = 20.0  # seconds; long enough to be steady, short enough to follow a change
SHORTEST = 1.5  # seconds of watching before anything is said


class Pace:
    """Tell it what is there from time to time; bytes that were there before do not count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def seconds_left(self, now: float, done: int, total: int) -> int | None:
        """None while it is too early to tell, or while nothing comes."""
        if self._seen and done < self._seen[-1][1]:  # a damaged file was thrown away
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        if done >= total:
            return 0
        if now - since < SHORTEST or done == before:
            return None
        return round((total - done) * (now - since) / (done - before))
