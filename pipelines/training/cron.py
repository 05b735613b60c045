"""Cron expressions: minute, hour, day of month, month, day of week; UTC.

`*`, numbers, names (`jan`, `sun`), lists `a,b`, ranges `a-b`, steps `*/n` and `a-b/n`. Sunday is 0 or 7.
Where day of month and day of week are both given, either suffices, as POSIX has it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.errors import InvalidInput

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_FURTHEST = timedelta(days=9 * 366)  # a 29th of February may be eight years away


@dataclass(frozen=True)
class Cron:
    """A parsed expression."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Raises InvalidInput for what is no expression, or one that never comes due."""
        parts = text.lower().split()
        if len(parts) != len(_FIELDS):
            raise _wrong(text, f"{len(parts)} fields", "give 5: minute hour day-of-month month day-of-week")
        sets = [_values(part, *field, text=text) for part, field in zip(parts, _FIELDS, strict=True)]
        minutes, hours, days, months, weekdays = sets
        either = not parts[2].startswith("*") and not parts[4].startswith("*")
        weekdays = frozenset(day % 7 for day in weekdays)
        cron = cls(text, minutes, hours, days, months, weekdays, either)
        cron.after(datetime(2024, 1, 1))
        return cron

    def after(self, at: datetime) -> datetime:
        """The first time that is due strictly after `at`, in its time zone."""
        due = at.replace(second=0, microsecond=0) + timedelta(minutes=1)
        end = at + _FURTHEST
        while due < end:
            if due.month not in self.months:
                first = due.replace(day=1, hour=0, minute=0)
                due = (first + timedelta(days=32)).replace(day=1)
            elif not self._day_fits(due):
                due = due.replace(hour=0, minute=0) + timedelta(days=1)
            elif due.hour not in self.hours:
                due = due.replace(minute=0) + timedelta(hours=1)
            elif due.minute not in self.minutes:
                due += timedelta(minutes=1)
            else:
                return due
        raise _wrong(self.text, "it never comes due", "name a day that its month has")

    def _day_fits(self, at: datetime) -> bool:
        by_date, by_week = at.day in self.days, at.isoweekday() % 7 in self.weekdays
        return by_date or by_week if self.either_day else by_date and by_week


def _values(part: str, name: str, low: int, high: int, names: dict[str, int], *, text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, slash, step = item.partition("/")
        if slash and (not _number(step) or not 1 <= int(step) <= high):
            raise _wrong(text, f"step {step!r} in {name}", f"give 1 to {high}")
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _value(begin, name, low, high, names, text)
            last = _value(end, name, low, high, names, text) if dash else (high if slash else first)
        if first > last:
            raise _wrong(text, f"empty range {span!r} in {name}", "give the smaller one first")
        found.update(range(first, last + 1, int(step) if slash else 1))
    return frozenset(found)


def _value(word: str, name: str, low: int, high: int, names: dict[str, int], text: str) -> int:
    value = names.get(word, int(word) if _number(word) else -1)
    if not low <= value <= high:
        raise _wrong(text, f"{word!r} is no {name}", f"give {low} to {high}")
    return value


def _number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 4


def _wrong(text: str, what: str, mend: str) -> InvalidInput:
    return InvalidInput(what, where=f"cron expression {text[:80]!r}", mend=mend, code="invalid_schedule")
