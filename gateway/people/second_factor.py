"""The second factor: one-time codes by time (RFC 6238: HMAC-SHA1, 30 s, six digits), and recovery codes.

A code counts for its own step and the ones before and after, so that clocks may differ; a step that was used,
and every one before it, counts no more. That is decided where it is stored (`gateway.people.users`).
"""

import base64
import hashlib
import hmac
import os
import re
import struct
from datetime import datetime
from urllib.parse import quote

STEP_S, DIGITS, WINDOW = 30, 6, 1
RECOVERY_CODES = 10
_SECRET, _RECOVERY = 20, 10
_CODE = re.compile(r"[0-9]{6}", re.ASCII)
_SPACES = str.maketrans("", "", " -")


def new_secret() -> bytes:
    """160 random bits, as RFC 4226 advises."""
    return os.urandom(_SECRET)


def code_at(secret: bytes, step: int) -> str:
    """The code of a step of 30 s, counted from 1970.

    >>> code_at(b"12345678901234567890", 59 // 30)
    '287082'
    """
    digest = hmac.digest(secret, struct.pack(">Q", step), "sha1")
    offset = digest[-1] & 0xF
    number = int.from_bytes(digest[offset : offset + 4]) & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def step_at(at: datetime) -> int:
    return int(at.timestamp()) // STEP_S


def step_of(secret: bytes, code: str, at: datetime) -> int | None:
    """The step that a code belongs to, the latest one where it is several, or None."""
    given = code.translate(_SPACES)
    if not _CODE.fullmatch(given):
        return None
    found, now = None, step_at(at)
    for step in range(now - WINDOW, now + WINDOW + 1):
        if hmac.compare_digest(code_at(secret, step), given):
            found = step
    return found


def address_of(secret: bytes, *, issuer: str, name: str) -> str:
    """The `otpauth` address that authenticator apps read from a picture."""
    label = f"{quote(issuer, safe='')}:{quote(name, safe='@')}"
    return f"otpauth://totp/{label}?secret={text_of(secret)}&issuer={quote(issuer, safe='')}"


def text_of(secret: bytes) -> str:
    """As one types it in."""
    return base64.b32encode(secret).decode().rstrip("=")


def new_recovery_codes() -> list[str]:
    """Ten codes of 80 random bits, shown once: `ABCD-EFGH-IJKL-MNOP`."""
    return [_grouped(base64.b32encode(os.urandom(_RECOVERY)).decode()) for _ in range(RECOVERY_CODES)]


def hash_of(code: str) -> bytes:
    """What is stored of a recovery code. There is nothing to guess, so nothing to stretch."""
    return hashlib.sha256(code.translate(_SPACES).upper().encode("utf-8", "replace")).digest()


def _grouped(text: str) -> str:
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))
