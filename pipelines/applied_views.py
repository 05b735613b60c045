"""Which views were applied, and what they meant: an applied version keeps its meaning."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from core.ids import canonical_json
from features.view import FeatureView

Form = Mapping[str, Any]


def applied_forms(connection: psycopg.Connection[Any]) -> dict[tuple[str, int], Form]:
    """The canonical form of each applied view by name and version; none before tables are there."""
    if connection.execute("SELECT to_regclass('applied_views')").fetchone() == (None,):
        return {}
    rows = connection.execute("SELECT name, version, form::text FROM applied_views").fetchall()
    return {(name, version): json.loads(form) for name, version, form in rows}


def record_applied(connection: psycopg.Connection[Any], views: Iterable[FeatureView]) -> None:
    """Remember views as applied; one that is there already stays as it is."""
    for view in views:
        connection.execute(
            "INSERT INTO applied_views (name, version, digest, form, applied_at)"
            " VALUES (%s, %s, %s, %s::jsonb, now()) ON CONFLICT DO NOTHING",
            (view.name, view.version, view.digest, canonical_json(view.canonical()).decode()),
        )
