"""`Prefer` (RFC 7240): how long a client waits for its answer, and whether it comes back for it."""

import re
from dataclasses import dataclass
from functools import lru_cache

from core.errors import InvalidInput
from core.settings import Asking

_WAIT = re.compile(r"[0-9]{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Preference:
    """wait_s: how long the answer is waited for; 0 where it is only fetched. returns: the client fetches the
    answer later, where it was not there in time. applied: the value of `Preference-Applied`."""

    wait_s: float
    returns: bool
    applied: str | None


def preference_of(given: str | None, settings: Asking) -> Preference:
    """What a request prefers. Preferences that are not known are ignored, as the RFC has it.

    Raises InvalidInput for a wait that is no whole number of seconds; a longer one than allowed is cut.
    """
    return _read(given or "", settings.wait_s, settings.longest_wait_s)


@lru_cache(maxsize=256)
def _read(given: str, otherwise_s: float, longest_s: float) -> Preference:
    """Remembered, as clients say the same with every request."""
    returns, wait_s = False, None
    for part in given.split(","):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            returns = True
        elif name == "wait" and wait_s is None:
            if not _WAIT.fullmatch(value):
                raise InvalidInput(
                    f"wait={value[:20]!r} is no number of seconds", code="invalid_option", mend="write wait=5"
                )
            wait_s = min(float(value), longest_s)
    said = [*(["respond-async"] if returns else []), *([f"wait={wait_s:g}"] if wait_s is not None else [])]
    otherwise = 0.0 if returns else otherwise_s
    return Preference(otherwise if wait_s is None else wait_s, returns, ", ".join(said) or None)
