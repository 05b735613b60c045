"""Commands that change something, in the audit trail: an entry before, which has to be kept, and one after.

    with audited("keys.revoke", target=key) as act:
        act.target = revoke_key(settings(), key).id

Where the trail cannot keep the first one the command is refused and nothing is done.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import MillstreamError, Unavailable

if TYPE_CHECKING:
    from pipelines.audit.event import AuditEvent

STAGE = "stage"
_CLOSE_S = 5.0


@dataclass
class Act:
    """What a command does. `target` and `tenant` may be set once they are known, `detail` be added to. Code
    that tells an `AuditTrail` what it did can be given it as one."""

    target: str = ""
    tenant: str = ""
    detail: dict[str, str] = field(default_factory=dict)

    def note(self, event: "AuditEvent") -> None:
        """Take over what is told; written when the block ends."""
        self.target, self.tenant = event.target, event.tenant or self.tenant
        self.detail.update(event.detail)

    async def written(self, event: "AuditEvent") -> None:
        self.note(event)


@contextmanager
def audited(action: str, *, target: str = "", tenant: str = "") -> Iterator[Act]:
    """Raises Unavailable before anything is done. What the block raises is told with its code; where the end
    cannot be kept the command has been done all the same, and says so on stderr."""
    from core.clock import SystemClock
    from core.settings import settings
    from pipelines.audit.event import AuditEvent, Outcome
    from pipelines.audit.opening import open_writer
    from schemas.registry import SchemaRegistry

    given, clock, act = settings(), SystemClock(), Act(target, tenant)
    _require_topic()
    registry = SchemaRegistry.of(given)
    writer = open_writer(given, registry, clock, kind="cli")

    def tell(outcome: Outcome, stage: str, reason: str = "") -> None:
        writer.kept(
            AuditEvent(
                act.tenant,
                f"os:{os.getuid()}",  # a number, no name: whose it is, the machine's list of users says
                action,
                outcome,
                clock.now(),
                target=act.target,
                reason=reason,
                detail={**act.detail, STAGE: stage},
            ),
            given.audit.kept_s,
        )

    try:
        tell("allowed", "begun")
        try:
            yield act
        except BaseException as error:
            code = _code(error)
            _quietly(lambda: tell("failed", "ended", code))
            raise
        _quietly(lambda: tell("allowed", "ended"))
    finally:
        writer.close(_CLOSE_S)
        registry.close()


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, MillstreamError) else type(error).__name__


def _quietly(tell: Callable[[], None]) -> None:
    try:
        tell()
    except Unavailable as away:
        import typer

        typer.echo(f"warning: it is done, but its end is not in the audit trail: {away.what}", err=True)


def _require_topic() -> None:
    """Make the trail's topic and schema where they are not there yet. Raises Unavailable where Kafka or the
    registry is away."""
    from confluent_kafka import KafkaException

    from core.settings import settings
    from pipelines.audit.writer import AWAY
    from pipelines.changes import apply_topics
    from schemas import broker
    from schemas.catalog.security import SECURITY_EVENTS, TOPICS

    mend = "start it with `millstream up`; a change that is not told in the audit trail is not made"
    try:
        broker.require(settings())
        known = broker.admin(settings()).list_topics(topic=SECURITY_EVENTS.name, timeout=5.0).topics
        if known[SECURITY_EVENTS.name].error is not None:
            apply_topics(TOPICS, settings())
    except (KafkaException, Unavailable) as error:
        said = error.what if isinstance(error, Unavailable) else error.args[0].str()
        raise Unavailable(
            f"the audit trail cannot be kept: {said}", where="Kafka", mend=mend, code=AWAY
        ) from error
