"""Pipelines shipped with the framework, one per file, built from its public parts only."""
