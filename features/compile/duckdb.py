"""Views to DuckDB SQL: training sets, backfills, and the independent judge of the stream.

Works on a table with the columns tenant, the entity, the aggregated columns and `at_ms` (event time in
milliseconds as BIGINT, so that frames are integer arithmetic and no time zone takes part).
"""

from datetime import timedelta

from features.view import Count, CountDistinct, Feature, FeatureView, Max, Mean, Std, Sum

TIME = "at_ms"


def select(view: FeatureView, table: str, *, carried: tuple[str, ...] = ()) -> str:
    """One row per row of `table`: the `carried` columns, then the features; in no particular order."""
    items = [_quote(name) for name in carried]
    items += [f"{_value(view, feature)} AS {_quote(feature.name)}" for feature in view.features]
    windows = [f"{label(over)} AS ({_frame(view, over)})" for over in view.windows]
    comma = ",\n  "
    return f"SELECT\n  {comma.join(items)}\nFROM {_quote(table)}\nWINDOW\n  {comma.join(windows)}"


def label(over: timedelta) -> str:
    """The name of a window in SQL, e.g. `w600s`."""
    return f"w{over // timedelta(seconds=1)}s"


def _frame(view: FeatureView, over: timedelta) -> str:
    millis = over // timedelta(milliseconds=1)
    return (
        f"PARTITION BY {_quote('tenant')}, {_quote(view.entity)} ORDER BY {TIME} "
        f"RANGE BETWEEN {millis} PRECEDING AND CURRENT ROW"
    )


def _value(view: FeatureView, feature: Feature) -> str:
    over = f"OVER {label(feature.over)}"
    column = _quote(feature.column) if feature.column else ""
    exact = view.is_exact(feature)
    match feature.aggregate:
        case Count():
            return f"COUNT(*) {over}"
        case CountDistinct():
            return f"COUNT(DISTINCT {column}) {over}"
        case Sum():
            value = f"CAST(SUM({column}) {over} AS {'BIGINT' if exact else 'DOUBLE'})"
        case Max():
            value = f"CAST(MAX({column}) {over} AS {'BIGINT' if exact else 'DOUBLE'})"
        case Mean():
            value = f"CAST(SUM({column}) {over} AS DOUBLE) / NULLIF(COUNT({column}) {over}, 0)"
        case Std() if exact:
            wide = f"CAST({column} AS HUGEINT)"
            total, squares = f"SUM({wide}) {over}", f"SUM({wide} * {wide}) {over}"
            number = f"COUNT({column}) {over}"
            value = f"SQRT(CAST({number} * {squares} - {total} * {total} AS DOUBLE)) / NULLIF({number}, 0)"
        case Std():
            value = f"STDDEV_POP({column}) {over}"
    return value if feature.empty is None else f"COALESCE({value}, {feature.empty!r})"


def _quote(name: str | None) -> str:
    return '"' + (name or "").replace('"', '""') + '"'
