"""Alerts that are raised, remembered in Redis: raised once and cleared once by all processes that watch the
same, whichever of them die in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import redis

from core.errors import Unavailable

KEY = "millstream:raised:"
KEPT = timedelta(days=7)
What = Literal["raise", "clear"]
_MILLISECOND = timedelta(milliseconds=1)

# One hash per alert. since: when it began, ms. told: set once its raising was acknowledged. by:INSTANCE:
# when that process saw its cause last. ARGV: instance, whether it sees it, since, now, hold, time to live.
_SETTLE = """
local mine = 'by:' .. ARGV[1]
if ARGV[2] == '1' then
  redis.call('HSETNX', KEYS[1], 'since', ARGV[3])
  redis.call('HSET', KEYS[1], mine, ARGV[4])
else
  redis.call('HDEL', KEYS[1], mine)
end
local all = redis.call('HGETALL', KEYS[1])
local since, told, held = false, false, false
for i = 1, #all, 2 do
  if all[i] == 'since' then since = all[i + 1]
  elseif all[i] == 'told' then told = true
  elseif all[i + 1] + ARGV[5] > tonumber(ARGV[4]) then held = true
  else redis.call('HDEL', KEYS[1], all[i]) end
end
if not since then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if told and not held then return {'clear', since} end
if ARGV[2] == '1' and not told then return {'raise', since} end
if not held then redis.call('DEL', KEYS[1]) end
return false
"""

# ARGV: raise or clear, since, now. One that was seen again while its clearing was told begins anew.
_TOLD = """
if redis.call('HGET', KEYS[1], 'since') ~= ARGV[2] then return 0 end
if ARGV[1] == 'raise' then return redis.call('HSET', KEYS[1], 'told', '1') end
redis.call('HDEL', KEYS[1], 'told')
redis.call('HSET', KEYS[1], 'since', ARGV[3])
if redis.call('HLEN', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
return 1
"""


@dataclass(frozen=True)
class Due:
    """What is to be told of an alert that began at `since_ms` (epoch)."""

    what: What
    since_ms: int


class RaisedAlerts:
    """The alerts of one source as one process, `instance`, sees them. Errors of Redis are Unavailable.

    What is due stays due until it is `told`: a process that dies between the two leaves it to the next one,
    so an alert is told at least once, with the same `since_ms`.
    """

    def __init__(self, client: redis.Redis, *, source: str, instance: str) -> None:
        self._source = source
        self._instance = instance
        self._settle = client.register_script(_SETTLE)
        self._told = client.register_script(_TOLD)

    def settle(self, name: str, seen: bool, *, since_ms: int, now_ms: int, hold: timedelta) -> Due | None:
        """Say whether this process sees the cause now (`since_ms`: since when), and what is due to be told by
        it. Others that saw it and have said nothing for `hold` are taken for gone."""
        hold_ms, kept_ms = hold // _MILLISECOND, KEPT // _MILLISECOND
        found = self._ask(self._settle, name, [self._instance, int(seen), since_ms, now_ms, hold_ms, kept_ms])
        if found is None:
            return None
        return Due("raise" if found[0] == b"raise" else "clear", int(found[1]))

    def told(self, name: str, due: Due, *, now_ms: int) -> None:
        """It was told, and acknowledged."""
        self._ask(self._told, name, [due.what, due.since_ms, now_ms])

    def _ask(self, script: Any, name: str, arguments: Sequence[str | int]) -> Any:
        try:
            return script(keys=[f"{KEY}{self._source}:{name}"], args=list(arguments))
        except (redis.RedisError, OSError) as error:
            raise Unavailable(f"Redis: {type(error).__name__}: {error}", where="raised alerts") from error
