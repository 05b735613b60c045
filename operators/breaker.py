"""Breaker: leave a dependency alone for a while after it failed, so that every batch does not wait for it."""

from datetime import timedelta

from core.clock import Clock


class Breaker:
    """Open (refusing) for `rest` after a failure; then one attempt decides. Not shared between threads."""

    def __init__(self, clock: Clock, *, rest: timedelta = timedelta(seconds=1)) -> None:
        self._clock = clock
        self._rest_s = rest.total_seconds()
        self._open_until: float | None = None

    @property
    def open(self) -> bool:
        """True while calls should not be made."""
        return self._open_until is not None and self._clock.monotonic() < self._open_until

    def succeeded(self) -> None:
        self._open_until = None

    def failed(self) -> None:
        self._open_until = self._clock.monotonic() + self._rest_s
