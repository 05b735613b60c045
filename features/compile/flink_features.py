"""A rolling view to nested OVER aggregations: one window per level, on the needed columns only.

The longest window is innermost, so that the rows it keeps longest are the narrowest.
"""

from datetime import timedelta

from features.aggregates import Count, CountDistinct, Max, Mean, Std, Sum
from features.compile.conditions import literal
from features.compile.flink_columns import interval, quote
from features.kinds import is_exact
from features.plain import check_plain, plain
from features.view import Feature, FeatureView

LAST = "features"
NEEDED = "needed"
_WIDE = "DECIMAL(19, 0)"


def views(view: FeatureView, events: str, at: str, late: str) -> list[str]:
    """CREATE VIEW statements; the last view is named `features`: tenant, entity, id, `at`, the features.
    Rows of `events` that are `late` are left out. Raises DeclarationError for a view that is not plain."""
    check_plain(view, "the Flink job")
    keys = ["tenant", view.single_entity, "id", at]
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
                f"WINDOW w AS (PARTITION BY `tenant`, {quote(view.single_entity)} ORDER BY {quote(at)} "
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
    aggregate = plain(feature)
    if isinstance(aggregate, Count):
        return "COUNT(*) OVER w"
    column = quote(aggregate.column)
    exact = is_exact(aggregate, view.field)
    typed = _typed(view, aggregate.column, exact=exact)
    number = f"COUNT({column}) OVER w"
    match aggregate:
        case CountDistinct():
            return f"COUNT(DISTINCT {column}) OVER w"
        case Sum():
            value = f"SUM({typed}) OVER w"
        case Max():
            value = f"MAX({typed}) OVER w"
        case Mean():
            value = f"CAST(SUM({typed}) OVER w AS DOUBLE) / NULLIF({number}, 0)"
        case Std() if exact:
            wide = f"CAST({column} AS {_WIDE})"
            squares, total = f"SUM({wide} * {wide}) OVER w", f"SUM({wide}) OVER w"
            spread = f"CAST({number} AS {_WIDE}) * {squares} - {total} * {total}"
            value = f"SQRT(CAST({spread} AS DOUBLE)) / NULLIF({number}, 0)"
        case Std():
            value = f"STDDEV_POP({typed}) OVER w"
    return value if feature.empty is None else f"COALESCE({value}, {literal(feature.empty)})"


def _typed(view: FeatureView, column: str, *, exact: bool) -> str:
    """The column in the type it is summed in: BIGINT for integers, DOUBLE for the rest."""
    if view.field(column).kind in ("long", "double"):
        return quote(column)
    return f"CAST({quote(column)} AS {'BIGINT' if exact else 'DOUBLE'})"
