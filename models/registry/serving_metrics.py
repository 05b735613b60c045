"""What versions did in service, in MLflow, and no more of it than some days.

MLflow keeps each value of a metric for as long as its run. So each version has a run per day (UTC) in an
experiment of its own, and the runs of days long past are deleted as a new one begins: with 10 metrics each
minute a version and day are 14,400 values. A local store forgets deleted runs at once; on a server they are
marked, and `mlflow gc` there removes what is marked.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from core.clock import to_millis
from core.errors import InvalidInput, UnknownName
from core.telemetry.log import logger
from models.registry.connection import Connection, Missing, made_before
from models.registry.known import PREFIX, KnownModel
from models.store import checked_name

_LOG = logger("models.registry")
EXPERIMENT = "millstream-serving"
SERVING = "serving/"
MOST_METRICS = 1_000
SERVING_DAYS = 7
_DELETED_AT_ONCE = 1_000


class ServingMetrics:
    """Runs by (model, version) and day; `days` are kept, today among them. Safe for several threads: two that
    begin the same day at once make two runs, which are kept and deleted as one."""

    def __init__(self, connection: Connection, known: Callable[[str], KnownModel], *, days: int) -> None:
        self._connection = connection
        self._known = known
        self._days = days
        self._runs: dict[tuple[str, str], tuple[str, str]] = {}

    def log(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None:
        """See `ModelRegistry.log_metrics`. The same metrics of the same time are kept once."""
        where = f"model {checked_name(name, 'model')} {version}"
        bad = sorted(key for key, value in metrics.items() if not isfinite(value))
        if bad or len(metrics) > MOST_METRICS:
            raise InvalidInput(
                f"{len(metrics)} metrics, not a number: {bad[:5]}",
                where=where,
                mend="log finite numbers only",
            )
        if not metrics:
            return
        millis = to_millis(at)
        with self._connection.writing(), self._connection.asking(f"log metrics of {where}") as client:
            from mlflow.entities import Metric

            values = [
                Metric(f"{SERVING}{key}", float(value), millis, millis // 60_000)
                for key, value in sorted(metrics.items())
            ]
            try:
                client.log_batch(self._run(client, name, version, at), metrics=values)
            except Exception:
                self._runs.pop((name, version), None)  # it may have been deleted
                raise

    def newest(self, name: str, version: str) -> dict[str, float]:
        """The last value of each, of the newest day that has some."""
        try:
            with self._connection.asking(f"read the metrics of model {name} {version}") as client:
                experiment = client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    return {}
                found = client.search_runs(
                    [experiment.experiment_id],
                    _of(name, version),
                    max_results=1,
                    order_by=["attributes.start_time DESC"],
                )
        except Missing:
            return {}
        return dict(found[0].data.metrics) if found else {}

    def _run(self, client: Any, name: str, version: str, at: datetime) -> str:
        day = f"{at.astimezone(UTC):%Y-%m-%d}"
        known = self._runs.get((name, version))
        if known is not None and known[0] == day:
            return known[1]
        artifacts = self._connection.place.artifacts
        with made_before():
            client.create_experiment(
                EXPERIMENT, artifact_location=None if artifacts is None else str(artifacts)
            )
        experiment = str(client.get_experiment_by_name(EXPERIMENT).experiment_id)
        tagged = f"{_of(name, version)} AND tags.`{PREFIX}day` = '{day}'"
        found = client.search_runs([experiment], tagged, max_results=1)
        id = str(found[0].info.run_id) if found else self._made(client, experiment, name, version, at, day)
        self._runs[name, version] = (day, id)
        return id

    def _made(self, client: Any, experiment: str, name: str, version: str, at: datetime, day: str) -> str:
        versions = self._known(name).versions
        if version not in versions:
            raise UnknownName("model version", version, versions, where=f"model {name}")
        run = client.create_run(
            experiment,
            start_time=to_millis(at),
            run_name=f"{name} {version} {day}",
            tags={f"{PREFIX}model": name, f"{PREFIX}version": version, f"{PREFIX}day": day},
        )
        self._delete_old(client, experiment, at)
        return str(run.info.run_id)

    def _delete_old(self, client: Any, experiment: str, at: datetime) -> None:
        """Of all models: what serves no more begins no day of its own."""
        midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        oldest = to_millis(midnight - timedelta(days=self._days - 1))
        while True:
            old = client.search_runs(
                [experiment], f"attributes.start_time < {oldest}", max_results=_DELETED_AT_ONCE
            )
            for run in old:
                client.delete_run(run.info.run_id)
                self._forget(client, run.info.run_id)
            if old:
                _LOG.info("serving metrics deleted", runs=len(old))
            if len(old) < _DELETED_AT_ONCE:
                return

    def _forget(self, client: Any, run_id: str) -> None:
        """Out of the tables of a local store. MLflow's own door to this, `mlflow gc`, would take with it
        whatever else somebody has deleted there."""
        if self._connection.place.folder is not None:
            client._tracking_client.store._hard_delete_run(run_id)


def _of(name: str, version: str) -> str:
    return f"tags.`{PREFIX}model` = '{name}' AND tags.`{PREFIX}version` = '{version}'"
