"""What callers are told of their limits, in the fields of draft-ietf-httpapi-ratelimit-headers-10:

    RateLimit-Policy: "key";q=200;w=2       200 at once, all of them back in 2 s
    RateLimit: "key";r=57;t=2               57 left, all of them back in 2 s

An answer tells of the one limit that is nearest to its end.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import msgspec

from operators.limits import Limit


@dataclass(frozen=True)
class Policy:
    """A limit as callers see it: its name and its two numbers."""

    name: str
    limit: Limit

    @cached_property
    def text(self) -> str:
        """The member of `RateLimit-Policy`."""
        return f'"{self.name}";q={self.limit.burst};w={max(1, math.ceil(self.limit.refills_in_s))}'


class Standing(msgspec.Struct, frozen=True):
    """What is `left` of a policy for one caller, and which share of its burst that is."""

    policy: Policy
    left: int
    share: float

    @classmethod
    def of(cls, policy: Policy, left: int) -> "Standing":
        return cls(policy, left, left / policy.limit.burst)

    def headers(self) -> list[tuple[str, str]]:
        limit = self.policy.limit
        full_in_s = math.ceil((limit.burst - self.left) / limit.rate)
        return [
            ("ratelimit-policy", self.policy.text),
            ("ratelimit", f'"{self.policy.name}";r={self.left};t={full_in_s}'),
        ]
