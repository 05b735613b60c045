"""Patterns: a sequence of events of one entity that raises an alert; declared as data.

The events of an entity, in time order and each id once, are matched *in a row*: an event that fits no
step breaks the sequence. A match ends with its last step and the next one starts after it. A pattern
sees the events that came in time; one later than the disorder bound is not matched.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

from core.errors import DeclarationError, UnknownName
from core.ids import canonical_json, digest
from schemas.catalog.alerts import Severity
from schemas.record import Record

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Where:
    """A comparison of a numeric column with a constant."""

    column: str
    is_: Literal["<", "<=", ">", ">="]
    value: int | float


@dataclass(frozen=True)
class Step:
    """Events that satisfy `where`: at least `at_least` of them, and no more than that unless `or_more`."""

    name: str
    where: Where
    at_least: int = 1
    or_more: bool = False


@dataclass(frozen=True)
class Pattern:
    """Steps, one after the other, within a time.

    text: what the alert says; `{column}` is a field of the last event, `{step.count}` the number of events
        in a step.
    The alert's id and deduplication key are made of the pattern and the last event's id, so that a replay
    raises the same alert again and not another one.
    """

    name: str
    version: int
    source: type[Record]
    entity: str
    steps: tuple[Step, ...]
    within: timedelta
    severity: Severity
    text: str

    def __post_init__(self) -> None:
        spec = self.source.spec()
        spec.field(self.entity)
        if not _NAME.match(self.name):
            self._refuse(f"pattern name {self.name!r}", "use lower case letters, digits and _")
        names = [step.name for step in self.steps]
        if len(names) < 2 or len(set(names)) != len(names):
            self._refuse(f"steps {names}", "give at least two steps with different names")
        if self.steps[-1].or_more:
            self._refuse(
                f"the last step {names[-1]!r} has no end", "let the last step be a fixed number of events"
            )
        if self.within < timedelta(seconds=1) or self.within % timedelta(seconds=1):
            self._refuse(f"within {self.within}", "give whole seconds, at least one")
        for step in self.steps:
            if not _NAME.match(step.name) or step.at_least < 1:
                self._refuse(f"step {step.name!r} of {step.at_least}", "name it in lower case, count from 1")
            if spec.field(step.where.column).kind not in ("int", "long", "float", "double"):
                self._refuse(f"step {step.name!r} compares {step.where.column!r}", "compare a number")
        for place in self.places:
            step_name, dot, what = place.partition(".")
            if not dot:
                spec.field(place)
            elif step_name not in names:
                raise UnknownName("step", step_name, names, where=self.where)
            elif what != "count":
                self._refuse(f"{{{place}}} in the text", f"write {{{step_name}.count}}")

    def _refuse(self, what: str, mend: str) -> None:
        raise DeclarationError(what, where=self.where, mend=mend)

    @property
    def where(self) -> str:
        return f"pattern {self.name} v{self.version} over {self.source.__name__}"

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The placeholders of the text, each once."""
        return tuple(dict.fromkeys(_PLACE.findall(self.text)))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The fields that matching and the text need, besides tenant, id, entity and time."""
        used = [step.where.column for step in self.steps] + [
            place for place in self.places if "." not in place
        ]
        implied = {"tenant", "id", self.entity, self.source.spec().time}
        return tuple(name for name in dict.fromkeys(used) if name not in implied)

    def canonical(self) -> dict[str, Any]:
        """What is matched and said, as JSON data."""
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source.spec().full_name,
            "entity": self.entity,
            "steps": [
                [step.name, step.where.column, step.where.is_, step.where.value, step.at_least, step.or_more]
                for step in self.steps
            ],
            "within_s": self.within // timedelta(seconds=1),
            "severity": self.severity,
            "text": self.text,
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, in hex."""
        return digest(canonical_json(self.canonical()))
