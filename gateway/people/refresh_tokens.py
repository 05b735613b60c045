"""Refresh tokens: `msr_<session>_<family>_<secret>`.

The secret changes with every use; the family's does not as long as the session lasts. Both are 256 random
bits and kept as SHA-256. So a token that was used before is told from a forged one: it has the secret of the
family, but not the newest of its own. Such a token ends the session, whoever sent it; one that merely names
the session does nothing.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

PREFIX = "msr_"
_SHAPE = re.compile(rf"{PREFIX}([0-9a-f]{{32}})_([0-9a-f]{{64}})_([0-9a-f]{{64}})", re.ASCII)


@dataclass(frozen=True)
class RefreshToken:
    """One token, whole."""

    session: str
    family: str
    secret: str

    @property
    def text(self) -> str:
        return f"{PREFIX}{self.session}_{self.family}_{self.secret}"

    @property
    def family_hash(self) -> bytes:
        return hashlib.sha256(self.family.encode()).digest()

    @property
    def secret_hash(self) -> bytes:
        return hashlib.sha256(self.secret.encode()).digest()

    def next(self) -> "RefreshToken":
        """The token that follows this one."""
        return RefreshToken(self.session, self.family, secrets.token_hex(32))


def first_token() -> RefreshToken:
    """That of a new session."""
    return RefreshToken(secrets.token_hex(16), secrets.token_hex(32), secrets.token_hex(32))


def parse(text: str) -> RefreshToken | None:
    found = _SHAPE.fullmatch(text)
    return RefreshToken(*found.groups()) if found else None
