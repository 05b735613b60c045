"""Telling a web address how a run ended, signed, so that the receiver knows who said it and when.

`Millstream-Signature: t=<seconds>,v1=<hex>` where the hex is HMAC-SHA256 with the shared secret over
`<seconds>.<body>`. A receiver computes it anew over the bytes it got, compares in constant time (`verified`),
and refuses what is older than it tolerates. `Idempotency-Key` is the run's id and state: the same notice may
come twice.
"""

import hashlib
import hmac
import random
import time
from collections.abc import Callable
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from core.clock import Clock
from core.errors import Unavailable
from schemas.catalog.training import TrainingNotice

SIGNATURE = "Millstream-Signature"
ATTEMPTS = 4
_FIRST_S, _LONGEST_S = 0.5, 8.0


def signed(body: bytes, *, secret: str, at: int) -> str:
    """The value of the header for a body sent `at` seconds after the epoch."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


def verified(body: bytes, header: str, *, secret: str, now: int, tolerance_s: int = 300) -> bool:
    """Whether a header belongs to these bytes and is at most `tolerance_s` old; for receivers."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at = parts.get("t", "")
    if not at.isascii() or not at.isdigit() or abs(now - int(at)) > tolerance_s:
        return False
    return hmac.compare_digest(header.encode(), signed(body, secret=secret, at=int(at)).encode())


class Webhook:
    """Posts notices as JSON. Answers other than 2xx and silence are tried again, four times in all, with
    exponential waits and full jitter; redirects are not followed. Refusals (4xx) are final."""

    def __init__(
        self,
        address: str,
        *,
        secret: str,
        timeout_s: float,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address, self._secret, self._timeout_s = address, secret, timeout_s
        self._clock, self._sleep = clock, sleep
        self._opener = build_opener(_NoRedirects)

    def tell(self, notice: TrainingNotice) -> None:
        body = msgspec.json.encode(notice)
        for attempt in range(ATTEMPTS):
            problem = self._post(body, f"{notice.id}-{notice.state}")
            if problem is None:
                return
            if attempt + 1 < ATTEMPTS:
                self._sleep(random.uniform(0.0, min(_FIRST_S * 2**attempt, _LONGEST_S)))
        raise Unavailable(f"the webhook does not take it: {problem}", where=self._address)

    def _post(self, body: bytes, key: str) -> str | None:
        """What went wrong and may be tried again, None when it was taken. Raises Unavailable if refused."""
        at = int(self._clock.now().timestamp())
        request = Request(
            self._address,
            data=body,
            method="POST",
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": key,
                SIGNATURE: signed(body, secret=self._secret, at=at),
            },
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return None
        except HTTPError as error:
            error.close()
            if 400 <= error.code < 500 and error.code not in (408, 429):
                raise Unavailable(f"the webhook refuses it: {error.code}", where=self._address) from error
            return f"answer {error.code}"
        except (URLError, OSError, ValueError) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
