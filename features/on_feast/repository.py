"""A Feast feature store over our online store, our offline store and a registry.

    store = feature_store(settings(), registry=None)
    apply(store, [REGIONAL_DEMAND, CARD_ACTIVITY], [RIDES], history={...})
    store.get_online_features(["regional_demand:bookings"], [{"tenant": "acme", "region": "north"}])

The registry is one SQLite file in the data folder, `feast/registry.db`; in production a PostgreSQL URL, so
that several machines share it. `repository` writes the same as a folder with a `feature_store.yaml` (JSON,
which is YAML), for Feast's own command line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import feast
from feast.repo_config import RepoConfig

from core.settings import Settings
from features.on_feast.compile import compile_feast
from features.services import FeatureService
from features.view import FeatureView

PROJECT = "millstream"
ONLINE_STORE = "features.on_feast.online_store.MillstreamOnlineStore"
OFFLINE_STORE = "features.on_feast.history.MillstreamOfflineStore"
REGISTRY_CACHE_S = 60
"""How long a process may know an older state of the registry."""


def repo_config(settings: Settings, *, registry: str | None = None) -> RepoConfig:
    """registry: the URL of a PostgreSQL database; None: SQLite in the data folder."""
    folder = _folder(settings)
    return RepoConfig(repo_path=folder, **_configuration(settings, registry))


def feature_store(settings: Settings, *, registry: str | None = None) -> feast.FeatureStore:
    """The store of these settings; see `repo_config`."""
    return feast.FeatureStore(config=repo_config(settings, registry=registry))


def repository(settings: Settings, *, registry: str | None = None) -> Path:
    """The folder for `feast -c FOLDER ...`: a feature_store.yaml of these settings that only its owner reads.
    Feast's process needs our packages on its path.

    The definitions come from `apply` here. Feast's own `apply` command takes out of the registry, and of the
    online store, what has no definition in the folder: there is none in this one. Feast replaces `$NAME` in
    the file by the environment's, also in passwords.
    """
    folder = _folder(settings)
    file = folder / "feature_store.yaml"
    file.touch(mode=0o600)
    file.write_text(json.dumps(_configuration(settings, registry), indent=2) + "\n", encoding="utf-8")
    return folder


def apply(
    store: feast.FeatureStore,
    views: Sequence[FeatureView],
    services: Sequence[FeatureService] = (),
    *,
    history: Mapping[str, Path],
) -> None:
    """Put the definitions into the registry; what is there already under other names stays.

    history and what is raised: `features.on_feast.compile.compile_feast`.
    """
    made = compile_feast(views, services, history=history)
    store.apply([*made.entities, *made.views, *made.services])


def _folder(settings: Settings) -> Path:
    folder = settings.root / "feast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _configuration(settings: Settings, registry: str | None) -> dict[str, Any]:
    path = registry or f"sqlite:///{_folder(settings) / 'registry.db'}"
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": path.replace("postgresql://", "postgresql+psycopg://", 1),  # the driver that we have
            "cache_ttl_seconds": REGISTRY_CACHE_S,
            # the stream writes while Feast materializes
            "serve_features_while_materializing": True,
        },
        "online_store": {"type": ONLINE_STORE, "url": settings.redis.address},
        "offline_store": {"type": OFFLINE_STORE},
        "entity_key_serialization_version": 3,
    }
