"""What an answer of LLMs is made of: the pieces, the whole, and what is kept of it."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from core.errors import Unavailable
from core.structs import ready
from operators.answer_statistics import Timings
from operators.asking import Emit
from operators.generate_ports import Claim, Usage
from operators.generate_request import Generation
from operators.server_pool import Lease

LIVE, BACKUP, EARLIER, STATIC = "live", "backup", "earlier_answer", "static"
_encode = msgspec.json.Encoder().encode


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """One server took over from another in the middle of an answer, which had `characters` by then."""

    previous: str
    server: str
    reason: str
    characters: int


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An answer without who asked: what is kept, and what those get who asked the same meanwhile. `level` of
    the fallback chain; `warnings` has every failure on the way."""

    model: str
    server: str
    text: str
    finish_reason: str
    usage: Usage
    level: str = LIVE
    degraded: bool = False
    warnings: list[str] = []


@ready
class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `finish_reason` is `stop` or `length`. `degraded` where the active model did not answer, or
    a server died meanwhile, with every failure in `warnings`; `level` says who answered: `live`, `backup`
    (another model), `earlier_answer` (one given to the same question before) or `static`."""

    id: str
    model: str
    server: str
    text: str
    finish_reason: str
    usage: Usage
    statistics: Timings
    level: str = LIVE
    degraded: bool = False
    warnings: list[str] = []


@dataclass
class Progress:
    """What has been said so far, whoever said it. `until`: when the time of the level under way ends."""

    text: str = ""
    tokens: int = 0
    finish: str = ""
    usage: Usage = field(default_factory=Usage)
    first_at: float | None = None
    asked_at: float | None = None
    last_at: float = 0.0
    queue_s: float = 0.0
    slot_s: float = 0.0
    decoding_s: float = 0.0
    batch: int = 0
    tokenization_s: float | None = None
    until: float | None = None
    previous: Lease | None = None
    paid: Unavailable | None = None
    failures: list[str] = field(default_factory=list)

    def restart(self) -> None:
        self.text, self.tokens, self.usage, self.finish = "", 0, Usage(), ""


@dataclass(frozen=True)
class Asked:
    """One question on its way through the chain. `claim` where the call costs money."""

    generation: Generation
    key: str
    streamed: bool
    emit: Emit
    progress: Progress
    claim: Claim | None

    async def say(self, value: dict[str, Any]) -> None:
        if self.streamed:
            await self.emit(piece(value))


def piece(value: dict[str, Any]) -> bytes:
    return _encode(value) + b"\n"


def said_by(lease: Lease, progress: Progress, level: str) -> Said:
    server = lease.member.server
    tokens = progress.usage.completion_tokens or progress.tokens
    return Said(
        model=server.model,
        server=server.name,
        text=progress.text,
        finish_reason=progress.finish,
        usage=Usage(progress.usage.prompt_tokens, tokens, progress.usage.cached_tokens),
        level=level,
        degraded=bool(progress.failures) or level != LIVE,
        warnings=list(progress.failures),
    )


def timings_of(progress: Progress, said: Said, *, begun: float, validated: float, now: float) -> Timings:
    """Of an answer that servers gave; times of the clock in seconds."""
    first = progress.first_at if progress.first_at is not None else now
    generation_s = max(progress.last_at - first, 0.0)
    tokens = said.usage.completion_tokens
    return Timings(
        validation_ms=ms(validated - begun),
        queue_wait_ms=ms(progress.queue_s),
        slot_wait_ms=ms(progress.slot_s),
        tokenization_ms=None if progress.tokenization_s is None else ms(progress.tokenization_s),
        first_token_ms=ms(first - (progress.asked_at or first)),
        generation_ms=ms(generation_s),
        decoding_ms=ms(progress.decoding_s),
        total_ms=ms(now - begun),
        tokens=tokens,
        tokens_per_s=(tokens - 1) / generation_s if tokens > 1 and generation_s > 0 else None,
        batch_size=progress.batch,
    )


def ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
