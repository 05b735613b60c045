"""`millstream models`: versions in the registry, and whether they may serve."""
