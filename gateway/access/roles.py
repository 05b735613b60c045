"""The roles that every tenant has. A tenant's own roles (`millstream roles create`) stand beside them and may
build on them; none takes the name of one of these."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway import principals
from gateway.principals import SCOPES

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)


@dataclass(frozen=True)
class Role:
    """What it may, beside what the roles may that it builds on."""

    name: str
    permissions: frozenset[str]
    parents: frozenset[str] = frozenset()


_ROLES = (
    Role(
        "viewer",
        frozenset(
            {
                principals.TRANSACTIONS_READ, principals.FEATURES_READ, principals.REVIEWS_READ,
                principals.STREAM_READ, principals.TRAINING_READ, principals.MODELS_READ,
            }
        ),
    ),
    Role("analyst", frozenset({principals.REVIEWS_WRITE, principals.ASK}), frozenset({"viewer"})),
    Role(
        "operator",
        frozenset(
            {
                principals.EVENTS_WRITE, principals.ASK, principals.TRAINING_WRITE, principals.MODELS_WRITE,
            }
        ),
        frozenset({"viewer"}),
    ),
    Role(
        "service",
        frozenset(
            {
                principals.EVENTS_WRITE, principals.ASK, principals.FEATURES_READ,
                principals.TRANSACTIONS_READ, principals.STREAM_READ,
            }
        ),
    ),
    Role("admin", SCOPES),
)  # fmt: skip
BUILT_IN: Mapping[str, Role] = {role.name: role for role in _ROLES}
KEY, TOKEN = "key", "token"
"""What policies call the holder of an API key, and of a token of the issuer in the settings: they have
scopes, no roles."""
RESERVED = frozenset({*BUILT_IN, KEY, TOKEN})
