"""What one socket has under way besides listening: publishing, asking, and its newest prompt. Bounded."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from core.errors import Conflict, MillstreamError, QueueFull, Rejected
from core.telemetry.log import logger
from gateway.principals import ANONYMOUS, Principal
from gateway.push import frames
from gateway.push.calls import Calls
from gateway.push.connection import Connection

MOST_CALLS = 64
MAX_ID = 128
_log = logger("gateway.push.calls")

Call = frames.Publish | frames.Ask | frames.Prompt


class UnderWayCalls:
    """What they answer goes to `connection`. Belongs to the event loop."""

    def __init__(self, calls: Calls, connection: Connection) -> None:
        self._calls = calls
        self._connection = connection
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._prompt: str | None = None

    def begin(self, principal: Principal, frame: Call) -> None:
        """Start a call; a prompt ends the one before it. Raises Conflict where its id is under way, QueueFull
        where too many are, Rejected for an id that is none."""
        if not 0 < len(frame.id) <= MAX_ID:
            raise Rejected("the id is none", fields={"/id": f"1 to {MAX_ID} characters"}, code="invalid_id")
        if isinstance(frame, frames.Prompt) and self._prompt is not None:
            self.cancel(self._prompt)
        if frame.id in self._tasks:
            raise Conflict(
                f"{frame.id!r} is under way on this socket", mend="give each call an id of its own"
            )
        if len(self._tasks) >= MOST_CALLS:
            raise QueueFull(f"{len(self._tasks)} calls are under way on this socket")
        if isinstance(frame, frames.Prompt):
            self._prompt = frame.id
        task = asyncio.get_running_loop().create_task(self._run(principal, frame), name="socket-call")
        self._tasks[frame.id] = task
        task.add_done_callback(lambda ended: self._ended(frame.id, ended))

    def told(self, error: MillstreamError, principal: Principal | None) -> None:
        """The socket, or a subscription of it, met this; the audit trail is told where it is a refusal."""
        if self._calls.admission.audit is not None:
            self._calls.admission.audit.turned_away(error, principal or ANONYMOUS)

    def cancel(self, id: str) -> None:
        """Nobody wants the answer any more; harmless where it is not under way. An event that is being
        published stays published."""
        task = self._tasks.pop(id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all, and wait until they have left."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, id: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(id) is task:
            del self._tasks[id]
        if self._prompt == id and id not in self._tasks:
            self._prompt = None

    async def _run(self, principal: Principal, frame: Call) -> None:
        try:
            # closed at once when this is cancelled, so that the question is left
            async with aclosing(
                cast(AsyncGenerator[frames.Outgoing, None], self._of(principal, frame))
            ) as said:
                async for one in said:
                    self._connection.tell(frames.encode(one))
        except MillstreamError as error:
            self._connection.tell_problem(error, of=frame.id)
        except Exception as error:
            _log.exception("a call over a socket failed", session=self._connection.id)
            self._connection.tell_problem(error, of=frame.id)

    async def _of(self, principal: Principal, frame: Call) -> AsyncIterator[frames.Outgoing]:
        if isinstance(frame, frames.Publish):
            yield await asyncio.shield(self._calls.publish(principal, frame))
        elif isinstance(frame, frames.Ask):
            async for said in self._calls.ask(principal, frame):
                yield said
        else:
            async for suggestion in self._calls.suggest(principal, frame):
                yield suggestion
