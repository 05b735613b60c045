"""A Redis of the tests' own, without the rest of the stack, that may be killed and started again.

Configured as the local stack's is. Without a binary the tests are skipped, loudly; with
`MILLSTREAM_REQUIRE_SERVICES=1` they fail.
"""

import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from core.settings import Redis, settings
from stack.redis import CONFIGURATION, redis_binary
from tests.stack_fixture import free_ports, services_required

UP_TIMEOUT_S = 20.0


class RedisServer:
    """One server with its data in `folder`; `settings` lead to it."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self.port = free_ports(1)[0]
        self.settings = settings().model_copy(update={"redis": Redis(url=None, port=self.port)})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        text = CONFIGURATION.format(host="127.0.0.1", port=self.port, data=self._folder)
        (self._folder / "redis.conf").write_text(text, encoding="utf-8")
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, self._folder / "redis.conf"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + UP_TIMEOUT_S
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    if time.monotonic() > deadline or self._process.poll() is not None:
                        raise
                    time.sleep(0.01)

    def kill(self) -> None:
        """At once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def own_redis() -> Iterator[RedisServer]:
    binary = redis_binary()
    if binary is None:
        if services_required():
            pytest.fail("there is no Redis on this machine, and MILLSTREAM_REQUIRE_SERVICES=1")
        warnings.warn("NOT TESTED: there is no Redis on this machine", stacklevel=1)
        pytest.skip("NOT TESTED: there is no Redis on this machine")
    with tempfile.TemporaryDirectory(prefix="millstream-redis-") as folder:
        server = RedisServer(binary, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
