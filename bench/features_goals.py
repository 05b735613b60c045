"""What the benchmark of the features must reach: a goal per ratio."""

from collections.abc import Mapping
from typing import NamedTuple


class Goal(NamedTuple):
    """The median of a ratio is at least `bound`, or at most."""

    bound: float
    at_most: bool = False


GOALS: Mapping[str, Goal] = {
    "read_1": Goal(8.0),
    "read_10": Goal(25.0),
    "read_100": Goal(80.0),
    "coalesced_reads": Goal(10.0),
    "write": Goal(12.0),
    "training_set": Goal(15.0),
    "training_set_vs_asof": Goal(1.3, at_most=True),
    "flink_vs_faust": Goal(25.0),
}
