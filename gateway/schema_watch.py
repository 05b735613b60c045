"""The registry, watched from the side: nothing is accepted whose schema nobody could look up.

A background check asks for the id of every source schema and whether the registry answers at all. While it
does not, publishing is refused with 503; it goes on by itself once the registry is back. The event loop
only ever reads the last answer, so no request waits for the registry.
"""

from collections.abc import Sequence

from core.errors import MillstreamError, Unavailable
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry

_AWAY_AFTER = 2


class SchemaWatch:
    """`check` is for a background thread, `require` for the event loop."""

    def __init__(self, registry: SchemaRegistry, codecs: Sequence[RecordCodec[Record]]) -> None:
        self._registry = registry
        self._codecs = codecs
        self._known = False
        self._failures = 0
        self._reason = "its schemas were not looked up yet"

    def check(self) -> None:
        """Look up every schema (once) and see that the registry answers; raises what is wrong."""
        try:
            for codec in self._codecs:
                self._registry.id_of(codec.subject, codec.text)
            if not self._registry.reachable():
                raise Unavailable("the schema registry is away", code="registry_unavailable")
        except MillstreamError as error:
            self._failures += 1
            self._reason = error.what
            raise
        self._known = True
        self._failures = 0

    def require(self) -> None:
        """Raise Unavailable unless every schema is known and the registry answered lately."""
        if not self._known or self._failures >= _AWAY_AFTER:
            raise Unavailable(
                f"the schema registry cannot be used: {self._reason}",
                code="registry_unavailable",
                retry_after_s=1.0,
            )
