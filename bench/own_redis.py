"""A Redis of the benchmark's own on a free port, configured as the local stack's, gone at the end."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from redis.exceptions import RedisError

from core.errors import StackError
from core.settings import LOOPBACK
from stack.redis import CONFIGURATION, redis_binary

_UP_TIMEOUT_S = 20.0


@contextmanager
def own_redis() -> Iterator[int]:
    """Its port. Raises StackError where there is no Redis, or it does not start."""
    binary = redis_binary()
    if binary is None:
        raise StackError("there is no Redis on this machine", mend="install Redis or Valkey")
    with closing(socket.socket()) as held:
        held.bind((LOOPBACK, 0))
        port: int = held.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        file = Path(folder) / "redis.conf"
        file.write_text(CONFIGURATION.format(host=LOOPBACK, port=port, data=folder), encoding="utf-8")
        process = subprocess.Popen([binary, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await(port, process)
            yield port
        finally:
            process.kill()
            process.wait()


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _UP_TIMEOUT_S
    with redis.Redis(port=port, socket_timeout=1.0) as client:
        while True:
            try:
                client.ping()
                return
            except RedisError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise StackError("the benchmark's Redis does not start") from error
                time.sleep(0.01)
