"""What generating asks of the outside: LLM servers, a cache of answers, breakers, a ledger of paid calls."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Completion:
    """What a server is asked for. None leaves a setting to the server. `said`: the beginning of the answer,
    after which the server goes on; `open`: the last message, the assistant's, is such a beginning, too. A
    server that cannot go on refuses it as wrong."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    said: str = ""
    open: bool = False

    def after(self, said: str, tokens: int) -> "Completion":
        """The rest of it, when `tokens` have been said."""
        return replace(self, said=said, max_tokens=max(1, self.max_tokens - tokens))

    @property
    def text(self) -> str:
        """All that is to be read, without the template."""
        return "\n".join(message.content for message in self.messages)


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the server counts them, its chat template included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            max(self.prompt_tokens, other.prompt_tokens),
            self.completion_tokens + other.completion_tokens,
            max(self.cached_tokens, other.cached_tokens),
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of an answer. `finish` is `stop` or `length` at the end, `usage` comes once. `decoding_s`: what
    it took to make it from what the server sent."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    decoding_s: float = 0.0


class Health(msgspec.Struct, frozen=True):
    """How a server did on a probe: `score` from 0, no use, to 1; `reason` where it is below 1."""

    score: float
    tokens_per_s: float = 0.0
    reason: str | None = None


class LanguageServer(Protocol):
    """An LLM server. Many calls may be under way at once, on one loop."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    def complete(self, completion: Completion) -> AsyncGenerator[Delta, None]:
        """The answer, as it comes; closing the iterator tells the server to stop.

        Raises ServerFailed for all that is the server's fault, never later than its silence allows, and
        InvalidInput for what it refuses as wrong.
        """
        ...

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of the text alone; None where the server does not count. Raises nothing for its faults."""
        ...

    async def probe(self, heard: Callable[[int], None] | None = None) -> Health:
        """Have it say 4 to 8 tokens. Never raises for a server's fault: that is a score of 0. `heard` is told
        how much of that it has said, in percent."""
        ...

    async def close(self) -> None: ...


class CallBreaker(Protocol):
    """Whether to call a server at all. Tickets are the implementation's own."""

    async def admit(self) -> object:
        """A ticket for one call; raises Unavailable while none is to be made."""
        ...

    async def succeeded(self, ticket: object) -> None: ...

    async def failed(self, ticket: object) -> None: ...

    async def abandoned(self, ticket: object) -> None:
        """The call ended without saying anything of the server."""
        ...


@dataclass(frozen=True)
class Claim:
    """The right to make the call of one question. `owner` is new with every claim."""

    tenant: str
    id: str
    owner: str


class PaidCalls(Protocol):
    """The ledger: a call that costs money is sent at most once per (tenant, id), whatever dies.

    A row is `begun`, then `paid` before the call is sent, then `answered`. A claim that was begun and not
    paid is taken over by the next one who asks; one that was paid is not.
    """

    async def begin(self, tenant: str, id: str, digest: str) -> "Claim | bytes":
        """A claim, or the answer that is there already. Raises Conflict for another question under that id
        and for one that was paid for and has no answer; Unavailable while the ledger is away."""
        ...

    async def paying(self, claim: Claim) -> None:
        """To be awaited before the call is sent. Raises Conflict when the claim was taken over."""
        ...

    async def unpaid(self, claim: Claim) -> None:
        """The call did not reach the server, or was refused by it."""
        ...

    async def answered(self, claim: Claim, answer: bytes) -> None: ...
