"""The oracle of limits: a token bucket in exact fractions, which GCRA must equal decision by decision."""

from fractions import Fraction

from hypothesis import strategies as st

from operators.limits import Limit

STEP = Fraction(1, 64)  # seconds; exact as a float and in whole microseconds, so that bounds are met exactly


class TokenBucket:
    def __init__(self, limit: Limit) -> None:
        self._rate = Fraction(limit.rate)
        self._burst = Fraction(limit.burst)
        self._tokens = self._burst
        self._at = Fraction(0)

    def take(self, cost: int, at: Fraction) -> Fraction:
        """Seconds to wait; 0 when it was taken."""
        self._tokens = min(self._burst, self._tokens + self._rate * (at - self._at))
        self._at = at
        if self._tokens >= cost:
            self._tokens -= cost
            return Fraction(0)
        return (cost - self._tokens) / self._rate


@st.composite
def takings(draw: st.DrawFn) -> tuple[Limit, list[tuple[int, int]]]:
    """A limit, and (steps after the one before, cost) of each taking."""
    limit = Limit(2.0 ** draw(st.integers(0, 6)), draw(st.integers(1, 12)))
    often = st.tuples(st.integers(0, 40) | st.just(0), st.integers(1, limit.burst))
    return limit, draw(st.lists(often, min_size=1, max_size=60))
