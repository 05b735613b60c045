"""The schema registry, by the Confluent HTTP API (Confluent, Apicurio under `/apis/ccompat/v7`, Karapace).

Ids, once known, never change, so they are cached for the life of the process. A schema is registered by
`apply`, never by a producer, unless `registry.auto_register` is set (development only).
"""

import threading
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import httpx

from core.clock import Clock, SystemClock
from core.errors import DeclarationError, IncompatibleSchema, InternalError, Unavailable, UnknownName
from core.settings import Settings
from schemas.evolution import explain

Compatibility = Literal[
    "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"
]
RULE: Compatibility = "BACKWARD_TRANSITIVE"
_JSON = "application/vnd.schemaregistry.v1+json"
_MISSING_FOR_S = 30.0  # an id nobody knew is asked for again after this long
_MISSING_KEPT = 1024


class Schemas(Protocol):
    """What the codec needs of a registry."""

    def id_of(self, subject: str, text: str) -> int:
        """The id of a registered schema."""
        ...

    def schema(self, schema_id: int) -> str:
        """The text of an id; UnknownName when the registry knows none, Unavailable when it is away."""
        ...


class SchemaRegistry:
    """A synchronous client. Thread-safe; every call is bounded by `timeout_s`.

    Raises Unavailable when the registry is away or answers 5xx, IncompatibleSchema (with the field diff
    and the rule) when it refuses a schema, UnknownName for an id or subject it does not have.
    """

    def __init__(
        self,
        url: str,
        *,
        auto_register: bool = False,
        timeout_s: float = 5.0,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.auto_register = auto_register
        self._client = httpx.Client(
            timeout=timeout_s, transport=transport, headers={"Accept": _JSON, "Content-Type": _JSON}
        )
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, str], int] = {}
        self._texts: dict[int, str] = {}
        self._missing: dict[int, float] = {}

    @classmethod
    def of(cls, settings: Settings) -> "SchemaRegistry":
        """The registry that the settings name."""
        return cls(settings.registry.address, auto_register=settings.registry.auto_register)

    def id_of(self, subject: str, text: str) -> int:
        """The id of exactly this schema under the subject. Raises Unavailable when it is not registered."""
        known = self._ids.get((subject, text))
        if known is not None:
            return known
        status, answer = self._call("POST", f"/subjects/{subject}", {"schema": text})
        if status == 200:
            return self._remember(subject, text, int(answer["id"]))
        if status != 404:
            raise self._unexpected(status, answer, f"subject {subject}")
        if self.auto_register:
            return self.register(subject, text)
        raise Unavailable(
            f"the schema of {subject} is not registered",
            where=self.url,
            mend="run `millstream apply`, or set MILLSTREAM_REGISTRY__AUTO_REGISTER=true in development",
            code="schema_not_registered",
        )

    def register(self, subject: str, text: str) -> int:
        """Register a version; the same schema again gives the same id. Raises IncompatibleSchema."""
        status, answer = self._call("POST", f"/subjects/{subject}/versions", {"schema": text})
        if status == 200:
            return self._remember(subject, text, int(answer["id"]))
        if status == 409:
            raise self._incompatible(subject, text, answer)
        if status == 422:
            raise DeclarationError(
                f"the registry takes no such schema for {subject}: {_message(answer)}", where=self.url
            )
        raise self._unexpected(status, answer, f"subject {subject}")

    def schema(self, schema_id: int) -> str:
        """The text of a schema. An unknown id is asked for again after 30 seconds."""
        known = self._texts.get(schema_id)
        if known is not None:
            return known
        now = self._clock.monotonic()
        since = self._missing.get(schema_id)
        if since is not None and now - since < _MISSING_FOR_S:
            raise UnknownName("schema id", str(schema_id), (), where=self.url)
        status, answer = self._call("GET", f"/schemas/ids/{schema_id}", None)
        if status == 200:
            text = str(answer["schema"])
            with self._lock:
                self._texts[schema_id] = text
                self._missing.pop(schema_id, None)
            return text
        if status not in (400, 404, 422):
            raise self._unexpected(status, answer, f"schema id {schema_id}")
        with self._lock:
            if len(self._missing) >= _MISSING_KEPT:
                self._missing.clear()
            self._missing[schema_id] = now
        raise UnknownName("schema id", str(schema_id), (), where=self.url)

    def latest(self, subject: str) -> str | None:
        """The newest schema of a subject, or None when it has none."""
        status, answer = self._call("GET", f"/subjects/{subject}/versions/latest", None)
        if status == 404:
            return None
        if status != 200:
            raise self._unexpected(status, answer, f"subject {subject}")
        return str(answer["schema"])

    def versions(self, subject: str) -> list[str]:
        """Every schema of a subject, oldest first; empty when it has none."""
        status, answer = self._call("GET", f"/subjects/{subject}/versions", None)
        if status == 404:
            return []
        if status != 200:
            raise self._unexpected(status, answer, f"subject {subject}")
        texts = []
        for version in sorted(int(number) for number in answer):
            status, found = self._call("GET", f"/subjects/{subject}/versions/{version}", None)
            if status != 200:
                raise self._unexpected(status, found, f"subject {subject} version {version}")
            texts.append(str(found["schema"]))
        return texts

    def subjects(self) -> list[str]:
        """Every subject of the registry."""
        status, answer = self._call("GET", "/subjects", None)
        if status != 200:
            raise self._unexpected(status, answer, "subjects")
        return sorted(str(name) for name in answer)

    def compatibility(self, subject: str) -> str | None:
        """The rule set on the subject itself, or None when it follows the registry's."""
        status, answer = self._call("GET", f"/config/{subject}", None)
        if status == 404:
            return None
        if status != 200:
            raise self._unexpected(status, answer, f"subject {subject}")
        level = answer.get("compatibilityLevel") or answer.get("compatibility")
        return None if level is None else str(level)

    def set_compatibility(self, subject: str, level: Compatibility = RULE) -> None:
        """Set the rule of a subject; repeating it changes nothing."""
        status, answer = self._call("PUT", f"/config/{subject}", {"compatibility": level})
        if status != 200:
            raise self._unexpected(status, answer, f"subject {subject}")

    def test(self, subject: str, text: str) -> bool:
        """Whether the registry would take the schema as the next version; True for a new subject."""
        path = f"/compatibility/subjects/{subject}/versions"
        status, answer = self._call("POST", path, {"schema": text})
        if status == 404:
            return True
        if status != 200:
            raise self._unexpected(status, answer, f"subject {subject}")
        return bool(answer["is_compatible"])

    def delete(self, subject: str) -> None:
        """Forget a subject of a run of its own; one that is not there is no error."""
        status, answer = self._call("DELETE", f"/subjects/{subject}", None)
        if status not in (200, 204, 404):
            raise self._unexpected(status, answer, f"subject {subject}")
        with self._lock:
            for key in [key for key in self._ids if key[0] == subject]:
                del self._ids[key]

    def reachable(self) -> bool:
        """Whether it answers at all; for health checks."""
        try:
            status, _ = self._call("GET", "/config", None)
        except Unavailable:
            return False
        return status == 200

    def close(self) -> None:
        self._client.close()

    def _remember(self, subject: str, text: str, schema_id: int) -> int:
        with self._lock:
            self._ids[subject, text] = schema_id
            self._texts.setdefault(schema_id, text)
            self._missing.pop(schema_id, None)
        return schema_id

    def _incompatible(self, subject: str, text: str, answer: Any) -> IncompatibleSchema:
        try:
            diff = explain(self.versions(subject), text)
        except Unavailable:
            diff = ""
        return IncompatibleSchema(
            f"the schema of {subject} breaks {RULE}:\n{diff or _message(answer)}",
            where=self.url,
            mend="give new fields a default, keep the types of old ones, or start a new topic version",
        )

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        try:
            response = self._client.request(method, self.url + path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the schema registry is away: {error or type(error).__name__}",
                where=self.url,
                mend="start it with `millstream up --only registry`, or check MILLSTREAM_REGISTRY__URL",
                code="registry_unavailable",
            ) from error
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise Unavailable(
                f"the schema registry answered {response.status_code}: {response.text[:200]}",
                where=f"{method} {self.url}{path}",
                mend="look at its log with `millstream logs registry`",
                code="registry_unavailable",
            )
        try:
            return response.status_code, response.json() if response.content else {}
        except ValueError as error:
            raise Unavailable(
                f"the schema registry answered {response.status_code} without JSON",
                where=f"{method} {self.url}{path}",
                mend="check that MILLSTREAM_REGISTRY__URL names the Confluent API",
                code="registry_unavailable",
            ) from error

    def _unexpected(self, status: int, answer: Any, what: str) -> InternalError:
        return InternalError(
            f"the schema registry answered {status} for {what}: {_message(answer)}", where=self.url
        )


def _message(answer: Any) -> str:
    return str(answer.get("message", answer)) if isinstance(answer, dict) else str(answer)
