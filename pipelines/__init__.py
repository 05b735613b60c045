"""Pipelines as data: the path of a record, planned, validated, and what its stores hold."""
