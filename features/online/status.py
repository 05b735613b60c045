"""What a read of the online store says of a feature, for both shapes of views.

    fresh      the value, as it should be there
    stale      windowed: the value is older than the view's next one should be; it is given all the same
    expired    everything known of the entity is older than the feature's time to live, or in a rolling view
               than its window: the value is that of an empty window
    missing    nothing is known of the entity, or nothing that can be read: the value is that of an empty
               window
    truncated  rolling: rows were folded or are gone, and the window's edge cuts what is left of them: counts
               and sums may be off by what one tile holds, or lack what is gone; distinct values may be more

A rolling value is computed for the asked time and so is never stale; a windowed value is whole and so is
never truncated. A feature's event time is that of the newest event the entity had by then (rolling), or the
end of the window (windowed); its age is the asked time minus that.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, Protocol

from features.view import Value

Status = Literal["fresh", "stale", "missing", "expired", "truncated"]


class FeatureRead(Protocol):
    """One entity's features of one view, whatever its shape. All have one event time and one age, which are
    None where nothing is known; an event time ahead of the clock gives a negative age."""

    @property
    def values(self) -> Mapping[str, Value]: ...

    @property
    def statuses(self) -> Mapping[str, Status]: ...

    @property
    def event_time_ms(self) -> int | None: ...

    @property
    def age_ms(self) -> int | None: ...

    @property
    def event_time(self) -> datetime | None: ...

    @property
    def age(self) -> timedelta | None: ...

    @property
    def truncated(self) -> bool: ...
