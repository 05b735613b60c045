"""Flink's REST API, as far as a keeper needs it: which jobs run, how they do, stopping one.

Source: "REST API" in the Flink 2.3 documentation. Every call is bounded in time; a JobManager that is away
or answers 5xx raises Unavailable.
"""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from core.errors import InternalError, Unavailable

#: States from which a job does not come back by itself.
ENDED = frozenset({"FAILED", "CANCELED", "FINISHED", "SUSPENDED"})
_POLL_S = 0.1


@dataclass(frozen=True)
class JobState:
    """A job as the JobManager sees it. `tasks_running` says whether every subtask of it runs."""

    id: str
    name: str
    state: str
    started_ms: int
    tasks_running: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class FlinkRest:
    """A client of one JobManager; not thread-safe."""

    def __init__(
        self, url: str, *, timeout_s: float = 5.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport)

    def jobs(self, pipeline: str | None = None) -> list[JobState]:
        """The jobs (of a pipeline) that the JobManager knows, ended ones included, the newest first."""
        answer = self._call("GET", "/jobs/overview")
        found = [
            JobState(job["jid"], job["name"], job["state"], job["start-time"], _all_running(job["tasks"]))
            for job in answer["jobs"]
            if pipeline is None or job["name"].rpartition("-")[0] == pipeline
        ]
        return sorted(found, key=lambda job: job.started_ms, reverse=True)

    def slots(self) -> int:
        """Task slots of all TaskManagers that are there."""
        return int(self._call("GET", "/overview")["slots-total"])

    def root_cause(self, job_id: str) -> str:
        """The exception that a job last failed with, or an empty text."""
        answer = self._call("GET", f"/jobs/{job_id}/exceptions", params={"maxExceptions": 1})
        entries = answer.get("exceptionHistory", {}).get("entries", [])
        return str(entries[0].get("stacktrace", "")) if entries else ""

    def checkpoints(self, job_id: str) -> dict[str, Any]:
        """Counts of the job's checkpoints: `completed`, `failed`, `in_progress`, `restored`."""
        counts = self._call("GET", f"/jobs/{job_id}/checkpoints").get("counts", {})
        return dict(counts)

    def stop(self, job_id: str, folder: str, *, timeout_s: float) -> str:
        """Stop with a savepoint below `folder`; returns the savepoint's path.

        Raises Unavailable when it is not done within `timeout_s`, or when the job cannot take one now.
        """
        body = {"targetDirectory": folder, "drain": False}
        trigger = self._call("POST", f"/jobs/{job_id}/stop", json=body)["request-id"]
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._call("GET", f"/jobs/{job_id}/savepoints/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer.get("operation", {})
                if "location" in operation:
                    return str(operation["location"])
                cause = operation.get("failure-cause", {}).get("class", "unknown cause")
                raise Unavailable("no savepoint was taken", where=f"job {job_id}: {cause}")
            if time.monotonic() >= deadline:
                raise Unavailable(f"no savepoint within {timeout_s:g} s", where=f"job {job_id}")
            time.sleep(_POLL_S)

    def cancel(self, job_id: str, *, timeout_s: float) -> None:
        """Cancel; retained checkpoints stay. Returns once the job has ended."""
        self._call("PATCH", f"/jobs/{job_id}", params={"mode": "cancel"})
        deadline = time.monotonic() + timeout_s
        while self._call("GET", f"/jobs/{job_id}/status")["status"] not in ENDED:
            if time.monotonic() >= deadline:
                raise Unavailable(f"not cancelled within {timeout_s:g} s", where=f"job {job_id}")
            time.sleep(_POLL_S)

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Flink is away: {error}", where=f"{method} {self.url}{path}", mend="start Flink"
            ) from error
        if answer.status_code >= 500 or answer.status_code == 404:
            raise Unavailable(
                f"Flink answers {answer.status_code}", where=f"{method} {self.url}{path}: {answer.text[:300]}"
            )
        if answer.status_code >= 400:
            raise InternalError(
                f"Flink refuses with {answer.status_code}",
                where=f"{method} {self.url}{path}: {answer.text[:300]}",
            )
        try:
            return answer.json() if answer.content else {}
        except ValueError as error:
            raise Unavailable("Flink answers no JSON", where=f"{method} {self.url}{path}") from error


def _all_running(tasks: dict[str, int]) -> bool:
    return tasks["total"] > 0 and tasks["running"] == tasks["total"]
