"""Great Expectations over a table: an ephemeral context in this process, nothing leaves the machine."""

import os
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from core.errors import InvalidInput
from jobs.training.expectations import Expected

_EXAMPLES = 5


class Finding(msgspec.Struct, frozen=True):
    """How an expectation came out. `unexpected` of `rows` values broke it, for example `examples`; `problem`
    where it could not be checked at all."""

    type: str
    arguments: dict[str, Any]
    origin: str
    success: bool
    rows: int = 0
    unexpected: int = 0
    examples: list[str] = []
    observed: str | None = None
    problem: str | None = None

    def line(self) -> str:
        """One line of the report."""
        what = f"{self.type} {self.arguments} ({self.origin})"
        if self.success:
            return f"ok      {what}"
        if self.problem is not None:
            return f"FAILED  {what}: {self.problem}"
        if self.observed is not None:
            return f"FAILED  {what}: observed {self.observed}"
        return f"FAILED  {what}: {self.unexpected} of {self.rows} values, e.g. {', '.join(self.examples)}"


class Validation(msgspec.Struct, frozen=True):
    """All findings."""

    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        return [one for one in self.findings if not one.success]

    def text(self) -> str:
        """The report, failures first."""
        ordered = [*self.failed, *(one for one in self.findings if one.success)]
        head = f"{len(self.findings)} expectations, {len(self.failed)} failed"
        return "\n".join([head, *(one.line() for one in ordered)]) + "\n"


def validate(table: pa.Table, expected: Sequence[Expected]) -> Validation:
    """Check a table against every expectation. Raises InvalidInput for an expectation that is none."""
    gx = _library()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    suite = gx.ExpectationSuite(name="training")
    try:
        for one in expected:
            suite.add_expectation_configuration(
                gx.expectations.expectation_configuration.ExpectationConfiguration(
                    type=one.type, kwargs=one.arguments, meta={"origin": one.origin}
                )
            )
        suite = context.suites.add(suite)
    except Exception as error:  # pydantic's of two versions, and the library's own
        raise InvalidInput(
            f"an expectation cannot be made: {str(error)[:500]}", where="expectations"
        ) from error
    asset = context.data_sources.add_pandas("training").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        batch_parameters={"dataframe": _frame(table, expected)}
    )
    results = batch.validate(
        suite, result_format={"result_format": "BASIC", "partial_unexpected_count": _EXAMPLES}
    )
    return Validation([_finding(one) for one in results.results])


def _library() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    import great_expectations

    return great_expectations


def _frame(table: pa.Table, expected: Sequence[Expected]) -> Any:
    """The columns that are looked at."""
    named = [one.column for one in expected]
    listed = [name for one in expected for name in one.arguments.get("column_list", ())]
    names = [name for name in dict.fromkeys([*named, *listed]) if name in table.column_names]
    return table.select(names).to_pandas()


def _finding(result: Any) -> Finding:
    plain = result.to_json_dict()
    configured, values = plain["expectation_config"], plain["result"]
    raised = plain["exception_info"]
    problem = None
    if not plain["success"] and raised and raised.get("raised_exception", True):
        infos = [raised] if "exception_message" in raised else list(raised.values())
        problem = "; ".join(sorted({str(one["exception_message"]) for one in infos if isinstance(one, dict)}))
    return Finding(
        type=configured["type"],
        arguments={name: value for name, value in configured["kwargs"].items() if name != "batch_id"},
        origin=configured["meta"].get("origin", ""),
        success=bool(plain["success"]),
        rows=int(values.get("element_count", 0)),
        unexpected=int(values.get("unexpected_count", 0)),
        examples=[str(one) for one in values.get("partial_unexpected_list", ())][:_EXAMPLES],
        observed=None if "observed_value" not in values else str(values["observed_value"]),
        problem=problem or None,
    )
