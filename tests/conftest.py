"""Fixtures of every test: the real local stack, where a test asks for it."""

from tests.stack_fixture import services_env, stack

__all__ = ["services_env", "stack"]
