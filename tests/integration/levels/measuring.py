"""What the suites measure and send: values by level, and every request with how it ended."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from cli.service_levels import Measured, Run

EXPECTS = "expects"
"""The extension of a request that names the statuses its test asks for; without it: any below 500."""
TOLD = 50
"""Most failed requests that are told of one by one."""


class Measurements:
    """Of one run. Values may come from several threads: each is one append."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self._sent: Counter[bool] = Counter()
        self._failed: list[str] = []
        self._suites: set[str] = set()

    def add(self, name: str, value: float, *, suite: str, unit: str = "ms") -> None:
        self._values.setdefault((name, suite, unit), []).append(value)

    def sent(self, suite: str, failure: str | None) -> None:
        self._suites.add(suite)
        self._sent[failure is None] += 1
        if failure is not None and len(self._failed) < TOLD:
            self._failed.append(f"{suite}: {failure}")

    def run(self) -> Run:
        measured = [Measured(*key, values) for key, values in self._values.items()]
        suites = {one.suite for one in measured} | self._suites
        return Run(measured, self._sent.total(), self._sent[False], self._failed, sorted(suites))

    def write(self, file: Path) -> None:
        file.write_bytes(msgspec.json.encode(self.run()))


class Measure:
    """The measurements as one suite sees them."""

    def __init__(self, measurements: Measurements, suite: str) -> None:
        self._measurements = measurements
        self.suite = suite

    def add(self, name: str, value: float, *, unit: str = "ms") -> None:
        self._measurements.add(name, value, suite=self.suite, unit=unit)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Milliseconds of what is done inside; nothing is added where it raises."""
        began = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - began) * 1000)

    def client(self, url: str, key: str | None = None, **more: Any) -> httpx.Client:
        """A client whose every request is counted."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        counted = Counted(httpx.HTTPTransport(retries=0), self._measurements, self.suite)
        return httpx.Client(base_url=url, headers=headers, transport=counted, **({"timeout": 30.0} | more))


class Counted(httpx.BaseTransport):
    """Counts what goes through it."""

    def __init__(self, inner: httpx.BaseTransport, measurements: Measurements, suite: str) -> None:
        self._inner = inner
        self._measurements = measurements
        self._suite = suite

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        expects: Collection[int] | None = request.extensions.get(EXPECTS)
        place = f"{request.method} {request.url.path}"
        try:
            answer = self._inner.handle_request(request)
        except httpx.TransportError as error:
            self._measurements.sent(self._suite, f"{place}: {error!r}")
            raise
        good = answer.status_code in expects if expects is not None else answer.status_code < 500
        self._measurements.sent(self._suite, None if good else f"{place}: {answer.status_code}")
        return answer

    def close(self) -> None:
        self._inner.close()


def expecting(*statuses: int) -> dict[str, Any]:
    """`client.get(path, **expecting(503))`: what a test provokes is no failure, and all else is one."""
    return {"extensions": {EXPECTS: frozenset(statuses)}}
