"""Requests that schemathesis makes of a document, sent to what serves it, and answers held against it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.config import SchemathesisConfig

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
REFUSED = ["207", "400", "401", "403", "404", "405", "408", "409", "411", "413", "414", "415", "422", "431"]
CONFIG: dict[str, Any] = {
    "checks": {"negative_data_rejection": {"expected-statuses": REFUSED}},
    "generation": {"allow-x00": True},
}
AGAIN = 5
TIMES = ("occurred_at",)


class Api:
    """A document, and who serves it under `url` to holders of `key`. `ready` waits until they do: what is
    answered with 503 or 504 while services starve on a busy machine is asked again then, a few times."""

    def __init__(
        self, document: Any, url: str, key: str, *, ready: Callable[[], None] = lambda: None
    ) -> None:
        self._ready = ready
        self._schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(CONFIG))
        self._url = url
        self._authorized = {"authorization": f"Bearer {key}"}
        self._session = requests.Session()
        self.statuses: dict[str, Counter[int]] = {}

    def operations(self) -> Iterator[Any]:
        for found in self._schema.get_all_operations():
            yield found.ok()

    def check(
        self,
        operation: Any,
        mode: schemathesis.GenerationMode,
        *,
        examples: int,
        until: float,
        adapt: Callable[[Any], None] = lambda case: None,
    ) -> None:
        """So many cases, the same with each run, or fewer where the time is over before, but one. What is to
        be refused must be."""
        rejects = mode == schemathesis.GenerationMode.NEGATIVE
        wanted = [*CHECKS, checks.negative_data_rejection] if rejects else CHECKS

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def once(case: Any) -> None:
            if operation.label in self.statuses and time.monotonic() > until:
                return
            adapt(case)
            self._send(case, self._authorized, wanted)

        try:
            once()
        except Unsatisfiable:
            assert rejects, f"{operation.label}: no valid request can be made"

    def send(self, operation: Any, **given: Any) -> Any:
        """One request; the answer, which conforms."""
        if "body" in given:
            given["media_type"] = "application/json"
        return self._send(operation.Case(**given), self._authorized, CHECKS)

    def unauthorized(self, operation: Any, **given: Any) -> Any:
        """The same without a key."""
        return self._send(operation.Case(**given), {}, CHECKS)

    def close(self) -> None:
        self._session.close()

    def _send(self, case: Any, headers: dict[str, str], wanted: list[Any]) -> Any:
        for _ in range(AGAIN):
            answer = case.call(base_url=self._url, session=self._session, headers=headers, timeout=120)
            if answer.status_code not in (503, 504):
                break
            self._ready()
        case.validate_response(answer, checks=wanted, headers=headers)
        self.statuses.setdefault(case.operation.label, Counter())[answer.status_code] += 1
        return answer


def unchanged(case: Any) -> None:
    """What is wrong stays wrong."""


def now(case: Any) -> None:
    """Events happen now: the document cannot say how old they may be."""
    events = case.body if isinstance(case.body, list) else [case.body]
    for event in events:
        if isinstance(event, dict):
            for name in TIMES:
                if isinstance(event.get(name), str):
                    event[name] = datetime.now(UTC).isoformat()
