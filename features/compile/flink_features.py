"""A rolling view to nested OVER aggregations: one window per level, on the needed columns only.

The longest window is innermost, so that the rows it keeps longest are the narrowest.
"""

from datetime import timedelta

from features.compile.flink_columns import interval, quote
from features.view import Count, CountDistinct, Feature, FeatureView, Max, Mean, Std, Sum

LAST = "features"
NEEDED = "needed"
_WIDE = "DECIMAL(19, 0)"


def views(view: FeatureView, events: str, at: str, late: str) -> list[str]:
    """CREATE VIEW statements; the last view is named `features`: tenant, entity, id, `at`, the features.
    Rows of `events` that are `late` are left out."""
    keys = ["tenant", view.entity, "id", at]
    needed = list(dict.fromkeys([*keys, *view.columns]))
    out = [_view(NEEDED, f"SELECT {_list(needed)}\nFROM {quote(events)}\nWHERE NOT {quote(late)}")]
    below, have = NEEDED, needed
    for window in reversed(view.windows):
        name = f"rolling_{window // timedelta(seconds=1)}s"
        made = [f"{_value(view, feature)} AS {quote(feature.name)}" for feature in view.over(window)]
        items = ",\n  ".join([_list(have), *made])
        out.append(
            _view(
                name,
                f"SELECT\n  {items}\nFROM {quote(below)}\n"
                f"WINDOW w AS (PARTITION BY `tenant`, {quote(view.entity)} ORDER BY {quote(at)} "
                f"RANGE BETWEEN {interval(window)} PRECEDING AND CURRENT ROW)",
            )
        )
        below, have = name, [*have, *(feature.name for feature in view.over(window))]
    out.append(_view(LAST, f"SELECT {_list([*keys, *view.feature_names])}\nFROM {quote(below)}"))
    return out


def _view(name: str, query: str) -> str:
    return f"CREATE TEMPORARY VIEW {quote(name)} AS\n{query}"


def _list(names: list[str]) -> str:
    return ", ".join(quote(name) for name in names)


def _value(view: FeatureView, feature: Feature) -> str:
    column = quote(feature.column) if feature.column else ""
    number = f"COUNT({column}) OVER w"
    match feature.aggregate:
        case Count():
            return "COUNT(*) OVER w"
        case CountDistinct():
            return f"COUNT(DISTINCT {column}) OVER w"
        case Sum():
            value = f"SUM({_typed(view, feature)}) OVER w"
        case Max():
            value = f"MAX({_typed(view, feature)}) OVER w"
        case Mean():
            value = f"CAST(SUM({_typed(view, feature)}) OVER w AS DOUBLE) / NULLIF({number}, 0)"
        case Std() if view.is_exact(feature):
            wide = f"CAST({column} AS {_WIDE})"
            squares, total = f"SUM({wide} * {wide}) OVER w", f"SUM({wide}) OVER w"
            spread = f"CAST({number} AS {_WIDE}) * {squares} - {total} * {total}"
            value = f"SQRT(CAST({spread} AS DOUBLE)) / NULLIF({number}, 0)"
        case Std():
            value = f"STDDEV_POP({_typed(view, feature)}) OVER w"
    return value if feature.empty is None else f"COALESCE({value}, {feature.empty!r})"


def _typed(view: FeatureView, feature: Feature) -> str:
    """The column in the type it is summed in: BIGINT for integers, DOUBLE for the rest."""
    column = view.column_spec(feature)
    if column is None or column.kind in ("long", "double"):
        return quote(feature.column or "")
    return f"CAST({quote(column.name)} AS {'BIGINT' if view.is_exact(feature) else 'DOUBLE'})"
