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

SCOPES = frozenset(
    {
        EVENTS_WRITE, TRANSACTIONS_READ, FEATURES_READ, REVIEWS_READ, REVIEWS_WRITE, STREAM_READ, ASK,
        TRAINING_READ, TRAINING_WRITE, MODELS_READ, MODELS_WRITE,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a credential. `credential` is its public id, never the secret. `signed_with` is the id of
    the key that signed it, where it is an issuer's token."""

    tenant: str
    credential: str
    scopes: frozenset[str]
    expires_at: datetime | None = None
    signed_with: str | None = None

    def may(self, permission: str) -> bool:
        return permission in OPEN or permission in self.scopes


ANONYMOUS = Principal(tenant="", credential="", scopes=frozenset())
