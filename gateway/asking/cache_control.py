"""`Cache-Control` of a request (RFC 9111, section 5.2.1), and what its answer says of the caches.

Known are `no-cache`, `no-store`, `max-age`, `min-fresh` and `only-if-cached`; others change nothing, as
nothing stale is ever given. A number that is none is read as the strictest one.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=("(?:[^"\\]|\\.)*"|[^\s,]*))?')
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_S = 2**31
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class CacheControl:
    """no_cache: the answer is made now. no_store: it is not kept. only_if_cached: nothing is made. max_age_s:
    the oldest that is taken; min_fresh_s: for how long it must still be given again."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int = 0

    def least(self, lasts: timedelta) -> timedelta:
        """How long an answer that lasts so long must have left."""
        fresh = timedelta(seconds=self.min_fresh_s)
        return fresh if self.max_age_s is None else max(lasts - timedelta(seconds=self.max_age_s), fresh)


ANYTHING = CacheControl()


def cache_control_of(given: str | None) -> CacheControl:
    """What a request asks for; of a directive that is given twice the stricter one."""
    return _read(given) if given else ANYTHING


@lru_cache(maxsize=256)
def _read(given: str) -> CacheControl:
    """Remembered, as clients say the same with every request."""
    said: set[str] = set()
    max_age_s: int | None = None
    min_fresh_s = 0
    for name, value in _DIRECTIVE.findall(given):
        name, value = name.lower(), value.strip('"')
        said.add(name)
        if name == "max-age":
            age = _seconds(value, otherwise=0)
            max_age_s = age if max_age_s is None else min(max_age_s, age)
        elif name == "min-fresh":
            min_fresh_s = max(min_fresh_s, _seconds(value, otherwise=_LONGEST_S))
    return CacheControl(
        "no-cache" in said, "no-store" in said, "only-if-cached" in said, max_age_s, min_fresh_s
    )


def cache_status(level: str, left: timedelta) -> str:
    """`Cache-Status` (RFC 9211): the caches that had a part in an answer, that nearest to its maker first."""
    kept = "; stored" if left else ""
    match level:
        case "memory":
            return f"memory; hit; ttl={left // _SECOND}"
        case "redis":
            return f"redis; hit; ttl={left // _SECOND}, memory; fwd=miss; stored"
        case "collapsed":
            return f"memory; fwd=miss; collapsed{kept}"
        case "miss":
            return f"redis; fwd=miss{kept}, memory; fwd=miss{kept}"
        case "request":
            return f"memory; fwd=request{kept}"
    return "memory; fwd=bypass"


def _seconds(value: str, *, otherwise: int) -> int:
    if not _SECONDS.fullmatch(value):
        return otherwise
    digits = value.lstrip("0")
    return int(digits or 0) if len(digits) < 10 else _LONGEST_S
