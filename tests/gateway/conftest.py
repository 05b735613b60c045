"""A database of its own for each test that asks for one: the writer's fixture."""

from tests.jobs.writer.conftest import database

__all__ = ["database"]
