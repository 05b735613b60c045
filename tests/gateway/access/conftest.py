"""The gateway with users."""

from tests.gateway.people.conftest import site

__all__ = ["site"]
