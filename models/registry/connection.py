"""The connection to MLflow: imported and opened at first use, its errors translated here and nowhere else.

Importing MLflow takes four seconds and the first opening of a local store three more, so nothing does either
before it has a question that only MLflow can answer.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock

from core.errors import DeclarationError, Denied, InvalidInput, MillstreamError, Unavailable
from core.telemetry.log import logger

_LOG = logger("models.registry")
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_CALLERS = ("INVALID_PARAMETER_VALUE",)
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")

_THEIRS = ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3")


class Missing(MillstreamError):
    """MLflow has nothing of that name; whoever asked knows what to call it."""

    domain = "input"
    default_code = "not_in_mlflow"


@dataclass(frozen=True)
class Place:
    """Where MLflow is: a server, or (`folder`) a SQLite file with the artifacts beside it."""

    uri: str
    folder: Path | None

    @property
    def artifacts(self) -> Path | None:
        """The folder of the artifacts of a local store."""
        return None if self.folder is None else self.folder / "artifacts"

    def __str__(self) -> str:
        return f"MLflow at {_without_credentials(self.uri) if self.folder is None else self.folder}"


def server(uri: str) -> Place:
    """The place of a server. Raises DeclarationError for an address that is none."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise DeclarationError(
            f"MLflow address {_without_credentials(uri)!r}",
            where="setting mlflow.uri",
            mend="give http(s)://host",
        )
    return Place(uri.rstrip("/"), None)


def local(folder: Path) -> Place:
    return Place(f"sqlite:///{folder / 'mlflow.db'}", folder)


class Connection:
    """Opened at first use, by one thread and one process at a time. Safe for several threads."""

    def __init__(self, place: Place, *, timeout_s: int) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: Any = None

    @contextmanager
    def asking(self, what: str) -> Iterator[Any]:
        """MLflow's client, for calls whose errors become ours: Missing, InvalidInput, Denied, and
        Unavailable for everything else."""
        try:
            yield self._opened()
        except MillstreamError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _THEIRS:
                raise
            raise self._translated(error, what) from error

    def writing(self) -> AbstractContextManager[object]:
        """One writer at a time in a local store; a server orders its own."""
        folder = self.place.folder
        if folder is None:
            return nullcontext()
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".writing")

    def files_of(self, uri: str) -> Any:
        """MLflow's access to the artifacts under a URI; inside `asking`."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(uri, tracking_uri=self.place.uri)

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                _prepare(self.timeout_s)
                from mlflow.tracking import MlflowClient

                logging.getLogger("mlflow").setLevel(logging.WARNING)
                warnings.filterwarnings("ignore", module=r"mlflow\.")
                folder = self.place.folder
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                # two processes that make the tables of one SQLite file at once would both fail
                with nullcontext() if folder is None else FileLock(folder / ".opening"):
                    self._client = MlflowClient(self.place.uri, self.place.uri)
                _LOG.debug("model registry opened", place=str(self.place))
            return self._client

    def _translated(self, error: Exception, what: str) -> MillstreamError:
        where = str(self.place)
        code = str(getattr(error, "error_code", ""))
        text = f"{what}: {_first_line(error)}"
        if code == _MISSING:
            return Missing(text, where=where)
        if code in _CALLERS:
            return InvalidInput(text, where=where, mend="see the reason")
        if code in _DENIED:
            return Denied(text, where=where, mend="set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN")
        return Unavailable(
            text, where=where, mend="see that the server answers; what is cached goes on", retry_after_s=5.0
        )


@contextmanager
def made_before() -> Iterator[None]:
    """Around the making of what may be there already, made by another process a moment ago."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") != _EXISTS:
            raise


def _prepare(timeout_s: int) -> None:
    """MLflow reads its limits from the environment; what a user has set there stays. Without them a server
    that is away is asked for minutes."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _without_credentials(uri: str) -> str:
    parsed = urlparse(uri)
    return parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()
