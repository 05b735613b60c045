"""Who is calling: a tenant and what its credential may do."""

from dataclasses import dataclass
from datetime import datetime

PUBLIC = "public"
"""The permission that everybody has."""
PROBE = "probe"
"""That of a probe: everybody has it, and it is answered also where callers are limited and requests shed."""
OPEN = frozenset({PUBLIC, PROBE})

EVENTS_WRITE = "events:write"
TRANSACTIONS_READ = "transactions:read"
FEATURES_READ = "features:read"
REVIEWS_READ = "reviews:read"
REVIEWS_WRITE = "reviews:write"
STREAM_READ = "stream:read"
ASK = "pipelines:ask"
TRAINING_READ = "training:read"
TRAINING_WRITE = "training:write"
MODELS_READ = "models:read"
MODELS_WRITE = "models:write"
OWN_SESSIONS = "sessions:own"
"""What a user does with sessions and factors of their own: no key, role or policy has it or takes it."""

SCOPES = frozenset(
    {
        EVENTS_WRITE, TRANSACTIONS_READ, FEATURES_READ, REVIEWS_READ, REVIEWS_WRITE, STREAM_READ, ASK,
        TRAINING_READ, TRAINING_WRITE, MODELS_READ, MODELS_WRITE,
    }
)  # fmt: skip


USER = "user:"


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a credential. `credential` is its public id, never the secret; that of a user is
    `user:<id>`. `scopes` are what the credential says itself that it may; what a user may follows from
    `roles` (`gateway.access`). `signed_with` is the id of the key that signed it, where it is an issuer's
    token; `session` that of a user's session."""

    tenant: str
    credential: str
    scopes: frozenset[str]
    expires_at: datetime | None = None
    signed_with: str | None = None
    roles: frozenset[str] = frozenset()
    session: str | None = None

    @property
    def user(self) -> str | None:
        """The id of the user, where it is one."""
        return self.credential.removeprefix(USER) if self.session is not None else None


ANONYMOUS = Principal(tenant="", credential="", scopes=frozenset())
