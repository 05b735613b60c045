"""Passwords: argon2id (RFC 9106), a bounded number at once, never on the event loop.

The cost is a setting: 64 MiB and three passes by default, about a tenth of a second of one core. Who is not
there costs the same: `verify` without a hash verifies against one that nothing fits.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import argon2

from core.errors import QueueFull, Rejected
from core.people_settings import People

LEAST, MOST = 12, 256
_SALT, _HASH = 16, 32


class Passwords:
    """Belongs to one event loop. `verifications` counts how often argon2id was computed to verify."""

    def __init__(self, settings: People) -> None:
        self._hasher = hasher(settings)
        self._threads = ThreadPoolExecutor(settings.hash_threads, thread_name_prefix="argon2")
        self._most = settings.hash_threads + settings.hash_queue
        self._open = 0
        self._nobody = self._hasher.hash(os.urandom(_HASH))
        self.verifications = 0

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether it is the password; without `stored` it is not, at the same cost. Raises QueueFull."""
        if self._open >= self._most:
            raise QueueFull("too many logins at once", retry_after_s=2.0)
        self._open += 1
        self.verifications += 1
        try:
            loop = asyncio.get_running_loop()
            good = await loop.run_in_executor(self._threads, self._verify, stored or self._nobody, password)
        finally:
            self._open -= 1
        return good and stored is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False


def hasher(settings: People) -> argon2.PasswordHasher:
    return argon2.PasswordHasher(
        time_cost=settings.hash_passes,
        memory_cost=settings.hash_memory_kib,
        parallelism=1,
        hash_len=_HASH,
        salt_len=_SALT,
    )


def checked(password: str, name: str) -> str:
    """A new password that may be one (NIST SP 800-63B: length counts, nothing else). Raises Rejected."""
    reason = None
    if not LEAST <= len(password) <= MOST:
        reason = f"{LEAST} to {MOST} characters"
    elif not password.isprintable():
        reason = "letters, digits, blanks and signs"
    elif len(set(password)) < 5 or name.partition("@")[0].lower() in password.lower():
        reason = "neither the name nor the same few letters"
    if reason is not None:
        raise Rejected("no password", fields={"/password": reason}, mend=f"take one of {reason}")
    return password
