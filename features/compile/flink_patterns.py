"""A pattern to MATCH_RECOGNIZE and an INSERT of alerts."""

import re

from features.compile.flink_columns import interval, quote, text
from features.patterns import Pattern, Step
from schemas.keys import key_sql

_PLACE = re.compile(r"\{([^{}]*)\}")


def insert(pattern: Pattern, *, source: str, events: str, at: str, late: str, alerts: str, key: str) -> str:
    """One INSERT into `alerts` (with the Kafka key column `key`) for every match over what of `events` is
    not `late`."""
    entity, last = quote(pattern.entity), quote(pattern.steps[-1].name)
    time = pattern.source.spec().time or at
    measures = {"__last_id": f"LAST({last}.`id`)", "__last_at": f"LAST({last}.{quote(time)})"}
    words: dict[str, str] = {}
    for place in pattern.places:
        step, dot, _ = place.partition(".")
        if place == pattern.entity or place == "tenant":
            words[place] = quote(place)
            continue
        name = f"__word_{len(words)}"
        measures[name] = f"COUNT({quote(step)}.`id`)" if dot else f"LAST({last}.{quote(place)})"
        words[place] = f"CAST({quote(name)} AS STRING)"
    unique = f"{text(pattern.name + ':')} || {entity} || ':' || `__last_id`"
    selected = {
        key: key_sql("`tenant`", entity),
        "tenant": "`tenant`",
        "id": f"{text(pattern.name + '-')} || `__last_id`",
        "severity": text(pattern.severity),
        "kind": text(pattern.name),
        "source": text(source),
        "subject": entity,
        "text": _sentence(pattern.text, words),
        "deduplication_key": unique,
        "raised_at": "`__last_at`",
    }
    items = ",\n  ".join(f"{value} AS {quote(name)}" for name, value in selected.items())
    sequence = " ".join(_quantified(step) for step in pattern.steps)
    wanted = ",\n    ".join(f"{value} AS {quote(name)}" for name, value in measures.items())
    defined = ",\n    ".join(f"{quote(step.name)} AS {_condition(step)}" for step in pattern.steps)
    return (
        f"INSERT INTO {quote(alerts)}\nSELECT\n  {items}\nFROM (\n"
        f"  SELECT {_columns(pattern, at)}\n  FROM {quote(events)}\n"
        f"  WHERE NOT {quote(late)}\n) MATCH_RECOGNIZE (\n"
        f"  PARTITION BY `tenant`, {entity}\n  ORDER BY {quote(at)}\n  MEASURES\n    {wanted}\n"
        f"  ONE ROW PER MATCH\n  AFTER MATCH SKIP PAST LAST ROW\n"
        f"  PATTERN ({sequence}) WITHIN {interval(pattern.within)}\n"
        f"  DEFINE\n    {defined}\n)"
    )


def _columns(pattern: Pattern, at: str) -> str:
    time = pattern.source.spec().time or at
    return ", ".join(quote(name) for name in ("tenant", pattern.entity, "id", time, *pattern.columns, at))


def _quantified(step: Step) -> str:
    if step.or_more:
        return f"{quote(step.name)}{{{step.at_least},}}"
    return quote(step.name) if step.at_least == 1 else f"{quote(step.name)}{{{step.at_least}}}"


def _condition(step: Step) -> str:
    return f"{quote(step.name)}.{quote(step.where.column)} {step.where.is_} {step.where.value!r}"


def _sentence(template: str, words: dict[str, str]) -> str:
    """The alert's text as a concatenation; a part that is not known reads `?`."""
    parts = _PLACE.split(template)
    pieces = [
        f"COALESCE({words[part]}, '?')" if index % 2 else text(part)
        for index, part in enumerate(parts)
        if part
    ]
    return " || ".join(pieces)


def _key_of_subject(entity: str) -> str:
    from schemas.keys import key_sql

    return key_sql("`tenant`", entity)
