"""The Kafka key: (tenant, entity) as one escaped string, the same in Python and in SQL.

`%` and `|` inside a part are written `%25` and `%7C`, so that two different pairs never share a key.
"""


def key_of(tenant: str, entity: str) -> str:
    return f"{_escape(tenant)}|{_escape(entity)}"


def split_key(key: str) -> tuple[str, str]:
    """The pair back; raises ValueError when `key` was not made by `key_of`."""
    tenant, separator, entity = key.partition("|")
    if not separator or "|" in entity:
        raise ValueError(f"no key of (tenant, entity): {key!r}")
    return _unescape(tenant), _unescape(entity)


def key_sql(tenant: str, entity: str) -> str:
    """The Flink (and DuckDB) SQL expression of `key_of` over two column names."""
    return f"{_escape_sql(tenant)} || '|' || {_escape_sql(entity)}"


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C")


def _unescape(part: str) -> str:
    return part.replace("%7C", "|").replace("%25", "%")


def _escape_sql(column: str) -> str:
    return f"REPLACE(REPLACE({column}, '%', '%25'), '|', '%7C')"
