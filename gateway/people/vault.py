"""Secrets that have to be read again, as PostgreSQL keeps them: encrypted with the setting `people.secret`.

AES-256-GCM with a key derived from the setting (HKDF-SHA256); what it belongs to is authenticated with it, so
that a secret cannot be moved from one row to another. Without the setting secrets are kept as they are, and
who may read the table may read them: the database's rights protect them, nothing else. The first byte says
which; with the setting both can be read, so that it can be set later.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import StackError

_PLAIN, _SEALED = b"\x00", b"\x01"
_NONCE = 12


class Vault:
    """With the setting's text, or without."""

    def __init__(self, secret: str | None) -> None:
        self._cipher = AESGCM(_key(secret)) if secret is not None else None

    def seal(self, value: bytes, of: str) -> bytes:
        """What is stored of a secret that belongs to `of`."""
        if self._cipher is None:
            return _PLAIN + value
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._cipher.encrypt(nonce, value, of.encode())

    def open(self, stored: bytes, of: str) -> bytes:
        """The secret. Raises StackError where the setting is missing or another one."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        try:
            if self._cipher is not None:
                return self._cipher.decrypt(stored[1 : 1 + _NONCE], stored[1 + _NONCE :], of.encode())
        except InvalidTag:
            pass
        raise StackError(
            "a stored secret cannot be read",
            where=of,
            mend="give this process the MILLSTREAM_PEOPLE__SECRET that it was stored with",
        )


def _key(secret: str) -> bytes:
    derived = HKDF(SHA256(), length=32, salt=None, info=b"millstream people")
    return derived.derive(secret.encode())
