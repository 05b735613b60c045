"""Positions: where in a channel a client is, signed so that it can only be what we gave to that tenant.

A token is 27 bytes of content and 16 of HMAC-SHA256 (truncated, RFC 2104), base64url: version, epoch (which
incarnation of the topic), partition, offset, and the message's timestamp. Tenant and channel are signed,
not carried: a token shown on another channel or by another tenant is garbage.
"""

import base64
import binascii
import hmac
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidInput
from core.settings import Settings

_CONTENT = struct.Struct(">BQHQQ")
_VERSION = 1
_SIGNATURE = 16
_LENGTH = (_CONTENT.size + _SIGNATURE) * 8 // 6 + 1
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Position:
    """The last message seen of one partition; `offset` -1 is before the first. `at_ms` is its timestamp."""

    epoch: int
    partition: int
    offset: int
    at_ms: int


class Signer:
    """Makes tokens and reads them back. One secret for all gateways that clients may resume on."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, position: Position, tenant: str, channel: str) -> str:
        """The token of a position, for one tenant and channel."""
        content = _CONTENT.pack(
            _VERSION, position.epoch, position.partition, position.offset + 1, max(0, position.at_ms)
        )
        return base64.urlsafe_b64encode(content + self._mac(content, tenant, channel)).rstrip(b"=").decode()

    def read(self, token: str, tenant: str, channel: str) -> Position:
        """The position of a token. Raises InvalidInput when we did not give it to this tenant and channel."""
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except (binascii.Error, ValueError, UnicodeEncodeError):
            raise _invalid() from None
        if len(token) > _LENGTH or len(raw) != _CONTENT.size + _SIGNATURE:
            raise _invalid()
        content, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        if not hmac.compare_digest(signature, self._mac(content, tenant, channel)):
            raise _invalid()
        version, epoch, partition, offset, at_ms = _CONTENT.unpack(content)
        if version != _VERSION:
            raise _invalid()
        return Position(epoch, partition, offset - 1, at_ms)

    def _mac(self, content: bytes, tenant: str, channel: str) -> bytes:
        who = tenant.encode()
        message = struct.pack(">I", len(who)) + who + channel.encode() + b"\x00" + content
        return hmac.digest(self._secret, message, "sha256")[:_SIGNATURE]


def position_secret(settings: Settings) -> bytes:
    """The signing secret: that of the settings, or one kept in the data folder (made at first use).

    Several gateways behind one address need the setting, so that a client may resume on any of them.
    """
    given = settings.gateway.position_secret
    if given is not None:
        return given.encode()
    path = settings.root / "gateway" / "position.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _existing(path)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(KEY_BYTES))
    return _existing(path)


def _existing(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) < KEY_BYTES:
        raise InvalidInput(
            f"{path} holds {len(secret)} bytes, not {KEY_BYTES}", mend="delete it; old positions end with it"
        )
    return secret


def _invalid() -> InvalidInput:
    return InvalidInput("no position of this channel", code="invalid_position")
