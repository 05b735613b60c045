"""The Kafka key: (tenant, entity) as one escaped string, the same in Python and in SQL.

`%` and `|` inside a part are written `%25` and `%7C`, so that two different pairs never share a key. An
entity of several fields is made one string in the same way, before it becomes part of a key.
"""

from collections.abc import Sequence


def key_of(tenant: str, entity: str) -> str:
    return entity_of((tenant, entity))


def split_key(key: str) -> tuple[str, str]:
    """The pair back; raises ValueError when `key` was not made by `key_of`."""
    tenant, separator, entity = key.partition("|")
    if not separator or "|" in entity:
        raise ValueError(f"no key of (tenant, entity): {key!r}")
    return _unescape(tenant), _unescape(entity)


def entity_of(parts: Sequence[str]) -> str:
    """The entity of these values: one as it is, several escaped and joined by `|`."""
    joined = "|".join(parts)
    if len(parts) == 1 or ("%" not in joined and joined.count("|") == len(parts) - 1):
        return joined  # nothing to escape
    return "|".join(map(_escape, parts))


def split_entity(entity: str, fields: int) -> tuple[str, ...]:
    """The values back; raises ValueError when `entity` was not made of so many fields."""
    if fields == 1:
        return (entity,)
    parts = entity.split("|")
    if len(parts) != fields:
        raise ValueError(f"no entity of {fields} fields: {entity!r}")
    return tuple(map(_unescape, parts))


def key_sql(tenant: str, entity: str) -> str:
    """The Flink (and DuckDB) SQL expression of `key_of` over two column names."""
    return f"{_escape_sql(tenant)} || '|' || {_escape_sql(entity)}"


def entity_sql(columns: Sequence[str]) -> str:
    """The Flink (and DuckDB) SQL expression of `entity_of` over column names."""
    return columns[0] if len(columns) == 1 else " || '|' || ".join(map(_escape_sql, columns))


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C")


def _unescape(part: str) -> str:
    return part.replace("%7C", "|").replace("%25", "%")


def _escape_sql(column: str) -> str:
    return f"REPLACE(REPLACE({column}, '%', '%25'), '|', '%7C')"
