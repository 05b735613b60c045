"""How many calls went well and how many failed lately, and how long the good ones took."""

from collections import deque

from core.clock import Clock

WINDOW_S = 60


class CallCounts:
    """Of the last minute, in buckets of a second: its memory does not grow with the load. On one loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: deque[list[float]] = deque()

    def succeeded(self, seconds: float) -> None:
        bucket = self._bucket()
        bucket[1] += 1
        bucket[3] += seconds

    def failed(self) -> None:
        self._bucket()[2] += 1

    def lately(self) -> tuple[int, int, float]:
        """Good calls, failed calls, and the seconds that the good ones took together."""
        since = int(self._clock.monotonic()) - WINDOW_S
        kept = [bucket for bucket in self._buckets if bucket[0] > since]
        good, bad, seconds = (sum(bucket[n] for bucket in kept) for n in (1, 2, 3))
        return int(good), int(bad), seconds

    def _bucket(self) -> list[float]:
        second = int(self._clock.monotonic())
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0, 0.0])
            while self._buckets[0][0] <= second - WINDOW_S:
                self._buckets.popleft()
        return self._buckets[-1]
