"""The model registry: MLflow, with a verified local cache before it.

    registry = open_registry(settings())
    stored = registry.publish("fraud", files, description)
    registry.set_alias("fraud", "champion", stored.version)
    model = load(registry.resolve("fraud"))

By default a SQLite file and a folder of artifacts under `mlflow/` in the data folder, cached in `models/`;
with `MILLSTREAM_MLFLOW__URI` a server, artifacts through it, cached in a folder of its own. Opening costs
nothing: MLflow is imported at the first question that only it can answer.
"""

from core.ids import digest
from core.settings import Settings
from models.registry.connection import Connection, local, server
from models.registry.following import Following
from models.registry.known import Described, KnownModel, KnownVersion
from models.registry.registry import ModelRegistry
from models.registry.watch import RegistryChange, RegistryWatch
from models.store import ModelStore

__all__ = [
    "Described",
    "Following",
    "KnownModel",
    "KnownVersion",
    "ModelRegistry",
    "RegistryChange",
    "RegistryWatch",
    "open_registry",
]


def open_registry(settings: Settings) -> ModelRegistry:
    """The registry of the settings. Raises DeclarationError for an address that is none."""
    given, root = settings.mlflow, settings.root
    if given.uri is None:
        place, cache = local(root / "mlflow"), root / "models"
    else:
        place = server(given.uri)
        cache = root / f"models-{digest(place.uri.encode())[:12]}"
    connection = Connection(place, timeout_s=given.timeout_s)
    return ModelRegistry(connection, ModelStore(cache), serving_days=given.serving_days)
