"""Durations on the command line."""

import re
from datetime import timedelta

from core.errors import InvalidInput

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST = timedelta(days=3650)


def duration(text: str, *, least: int = 1) -> timedelta:
    """`90s`, `15m`, `12h` or `30d`, at most ten years."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    seconds = int(found[1]) * _UNITS[found[2]] if found else -1
    if not least <= seconds <= _LONGEST.total_seconds():
        raise InvalidInput(f"no time: {text!r}", mend="write it as 90s, 15m, 12h or 30d")
    return timedelta(seconds=seconds)
