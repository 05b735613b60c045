"""Following without asking: aliases and versions from the cache, MLflow only for what is not in it."""

from models.registry.registry import ModelRegistry
from models.store import CHAMPION, StoredModel, is_version


class Following:
    """What a worker resolves with. An alias is where the cache says, which whoever moves or watches aliases
    on this machine keeps; so no worker imports MLflow, or waits for it, while its version is cached."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def resolve(self, name: str, reference: str = CHAMPION) -> StoredModel:
        """See `ModelRegistry.resolve`."""
        cache = self._registry.cache
        if not is_version(reference):
            version = cache.pointer(name, reference)
            if version is not None and cache.holds(name, version):
                return cache.resolve(name, reference)
        return self._registry.resolve(name, reference)
