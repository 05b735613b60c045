"""Thresholds of error rates, read from TOML: the shipped ones, or those of a file in their place."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from core.errors import DeclarationError, InvalidInput, Rejected
from core.structs import ready
from operators.error_rates import ONE_MINUTE, Threshold
from schemas.catalog.alerts import Severity

SHIPPED = ("pipelines.catalog", "error_rates.toml")
OPERATORS = ("decode", "features", "infer", "decide", "answer")
"""What workers and answering processes count."""
MAX_BYTES = 64 * 1024
_Share = Annotated[float, Meta(ge=0.0, lt=1.0)]


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operator: str
    rate: _Share
    minutes: Literal[1, 5]
    calls: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 20
    severity: Severity = "high"
    code: str | None = None
    cleared: _Share | None = None
    pipeline: str | None = None

    def threshold(self) -> Threshold:
        return Threshold(
            self.operator,
            self.rate,
            self.minutes * ONE_MINUTE,
            code=self.code,
            calls=self.calls,
            severity=self.severity,
            cleared=self.cleared,
        )


@ready
class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    threshold: tuple[_Given, ...] = ()


def thresholds(pipeline: str, file: Path | None = None) -> tuple[Threshold, ...]:
    """Those of a pipeline: the shipped ones, or those in `file`. Raises InvalidInput for a file that cannot
    be read, Rejected with every wrong place of one that makes no sense."""
    if file is None:
        package, name = SHIPPED
        data, where = (resources.files(package) / name).read_bytes(), name
    else:
        where = str(file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"the thresholds cannot be read: {error}", where=where, mend="give a TOML file"
            ) from error
    return parse(data, pipeline, where=where)


def parse(data: bytes, pipeline: str, *, where: str) -> tuple[Threshold, ...]:
    """The thresholds of a pipeline in TOML; raises as `thresholds` does."""
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{len(data)} bytes", where=where, mend=f"at most {MAX_BYTES}")
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"no TOML: {error}", where=where, mend="correct the file") from error
    try:
        given = msgspec.convert(values, _File).threshold
    except msgspec.ValidationError as error:
        raise _rejected({"": str(error)}, where) from None
    found: dict[tuple[str | None, str], Threshold] = {}
    problems: dict[str, str] = {}
    for number, one in enumerate(given):
        at = f"/threshold/{number}"
        if one.operator not in OPERATORS:
            close = get_close_matches(one.operator, OPERATORS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(OPERATORS)}"
            problems[f"{at}/operator"] = f"nothing counts {one.operator!r}; {hint}"
        try:
            threshold = one.threshold()
        except DeclarationError as error:
            problems[at] = f"{error.what}; {error.mend}"
            continue
        if (one.pipeline, threshold.name) in found:
            problems[at] = f"a second {threshold.name}: give it another code, window or severity"
        found[one.pipeline, threshold.name] = threshold
    if problems:
        raise _rejected(problems, where)
    return _of(pipeline, found)


def _of(pipeline: str, found: Mapping[tuple[str | None, str], Threshold]) -> tuple[Threshold, ...]:
    """A pipeline's own take the place of the general ones of the same name."""
    named = {name: threshold for (of, name), threshold in found.items() if of is None}
    named |= {name: threshold for (of, name), threshold in found.items() if of == pipeline}
    return tuple(named.values())


def _rejected(problems: dict[str, Any], where: str) -> Rejected:
    return Rejected(
        "; ".join(f"{place or '/'}: {reason}" for place, reason in problems.items()),
        fields=problems,
        where=where,
        mend="correct the thresholds",
        code="invalid_thresholds",
    )
