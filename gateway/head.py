"""The head of a request: its fields as a dictionary, and what is refused in it before anything is read.

`gateway.wire` refuses what is no HTTP (obsolete folding, blanks before colons, lengths that differ,
`Content-Length` beside `Transfer-Encoding`: 400) and more than 100 fields (431), and closes connections that
take too long over a head. A body has to declare its length: every transfer coding is refused with 411, and
what two servers could read in two ways is accepted in none.
"""

from collections.abc import Iterable

from core.errors import InvalidInput, Malformed
from gateway.problems import HeadTooLarge, LengthRequired, TargetTooLong

MOST_HEAD_BYTES = 32 * 1024
MOST_TARGET_BYTES = 8 * 1024
_ONCE = frozenset(
    {"host", "authorization", "x-api-key", "content-length", "content-type", "content-encoding", "origin",
     "idempotency-key"}
)  # fmt: skip


class Head:
    """`fields` by lower-case name; of one that comes twice the first counts, but those of `X-Forwarded-For`
    are one list. `flaw` is why the request is refused, or None."""

    __slots__ = ("fields", "flaw")

    def __init__(self, fields: dict[str, str], flaw: InvalidInput | None) -> None:
        self.fields = fields
        self.flaw = flaw


def head_of(raw: Iterable[tuple[bytes, bytes]], *, target_bytes: int, version: str) -> Head:
    """The head with these fields; `target_bytes` is the length of its path and query, `version` HTTP's."""
    found: dict[str, str] = {}
    size = 0
    flaw: InvalidInput | None = None
    for name_bytes, value_bytes in raw:
        size += len(name_bytes) + len(value_bytes) + 4
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        if name not in found:
            found[name] = value
        elif name == "x-forwarded-for":
            found[name] += f", {value}"
        elif name in _ONCE:
            flaw = Malformed(f"the field {name!r} comes more than once", code="repeated_field")
    if target_bytes > MOST_TARGET_BYTES:
        flaw = TargetTooLong(f"a path and query of {target_bytes} bytes", mend=f"at most {MOST_TARGET_BYTES}")
    elif size > MOST_HEAD_BYTES:
        flaw = HeadTooLarge(f"a head of {size} bytes", mend=f"at most {MOST_HEAD_BYTES}")
    elif "transfer-encoding" in found:
        flaw = LengthRequired("a body without a declared length", mend="send Content-Length, not chunks")
    elif version == "1.1" and not found.get("host"):
        flaw = Malformed("no host is named", code="no_host", mend="send the field `Host`")
    return Head(found, flaw)
