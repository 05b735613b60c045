"""One connection that is pushed to, whatever carries it: its queue, its subscriptions, and its end."""

import asyncio

from core.errors import MillstreamError
from core.ids import new_id
from core.telemetry.metrics import counter
from gateway.access.authority import forbidden
from gateway.addresses import PEER
from gateway.keyring import Keyring, Watch
from gateway.principals import STREAM_READ, Principal
from gateway.problems import Forbidden, problem_of
from gateway.push import frames
from gateway.push.hub import Hub, Subscription
from gateway.push.queue import FrameQueue, Given, Item
from gateway.push.selection import Asked, Selection

CLOSED = counter("gateway_sockets_closed_total", "Closed WebSockets and event streams, by code", ["code"])


class Connection:
    """The receiver of its subscriptions (see `gateway.push.hub.Receiver`). Belongs to the event loop."""

    def __init__(self, hub: Hub, keyring: Keyring, *, limit: int) -> None:
        self.id = new_id()
        self.principal: Principal | None = None
        self.ended = asyncio.Event()
        self.subscriptions: dict[str, tuple[str, Subscription]] = {}
        self._hub = hub
        self._watch: Watch | None = None
        self._keyring = keyring
        self._needed = {STREAM_READ}
        self.address = PEER.get()
        self._queue = FrameQueue(limit)
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closing: tuple[int, str] | None = None
        self._gone = False

    @property
    def over(self) -> bool:
        """Whether nothing more is taken."""
        return self._gone or self._closing is not None

    def tell(self, frame: str) -> bool:
        taken = self._queued(not self.over and self._queue.tell(frame))
        self.flush()
        return taken

    def push(self, subscription: Subscription, given: Given) -> bool:
        return self._queued(not self.over and self._queue.push(subscription, given))

    def flush(self) -> None:
        """Wake who writes what is queued."""
        self._wake.set()

    async def room(self) -> int:
        await asyncio.sleep(0)  # whoever is given much and takes it at once lets others have their turn
        while not self.over:
            await self._space.wait()
            free = self._queue.limit - len(self._queue)
            if free > 0 and not self.over:
                return free  # else others who waited were faster
        return 0

    def close(self, code: int, reason: str) -> None:
        """End the connection; the first reason stays. What is queued is written where the client reads."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()
            self._space.set()

    def watch(self) -> None:
        """Close when the credential of the principal is over: revoked, expired, not to be confirmed; and when
        it may not follow any more what it follows."""
        if self.principal is not None:
            self._watch = self._keyring.watch(self.principal, self._credential_over, look=self._look)

    async def follow(
        self,
        asked: Asked,
        selection: Selection,
        *,
        policy: frames.Policy,
        since: list[str] | None,
    ) -> None:
        """Subscribe. Raises UnknownName, Unavailable."""
        if self.principal is None:
            raise Forbidden("not connected")
        subscription = await self._hub.subscribe(
            self,
            self.principal.tenant,
            asked.feed,
            label=asked.label,
            selection=selection,
            policy=policy,
            since=since,
        )
        self.subscriptions[asked.label] = (asked.feed, subscription)

    def unfollow(self, label: str) -> None:
        """Unsubscribe; harmless where there is no such subscription."""
        held = self.subscriptions.pop(label, None)
        if held is not None:
            self._hub.unsubscribe(*held)

    def leave(self) -> None:
        """Nobody reads any more: forget everything."""
        self._gone = True
        self._space.set()
        if self._watch is not None:
            self._watch.close()
        for label in tuple(self.subscriptions):
            self.unfollow(label)
        self._queue.clear()

    def tell_problem(self, error: BaseException, channel: str | None = None, of: str | None = None) -> None:
        """Queue an `error` frame."""
        self.tell(frames.encode(frames.Error(problem_of(error, self.id), channel, of)))

    def may_follow(self, feed: str) -> None:
        """Raises Forbidden where the credential does not reach the channel, UnknownName without one."""
        own = self._hub.channel(feed).feed.permission
        needed = {STREAM_READ} if own is None else {STREAM_READ, own}
        for permission in sorted(needed):
            if not self._may(permission):
                raise forbidden(permission)
        self._needed |= needed

    def _queued(self, taken: bool) -> bool:
        if taken:
            if len(self._queue) > self._queue.limit // 2:
                self._space.clear()
        elif not self.over:
            self._queue.clear()
            self.close(frames.TOO_SLOW, "the client does not keep up; resume from the last position")
        return taken

    def _pop(self) -> Item | None:
        item = self._queue.pop()
        if not self._space.is_set() and len(self._queue) <= self._queue.limit // 2:
            self._space.set()
        return item

    async def _rest(self, seconds: float) -> bool:
        """Wait until something is queued or the end has come; False after `seconds` of nothing."""
        self._wake.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        return len(self._queue) > 0 or self.over

    def _may(self, permission: str) -> bool:
        if self.principal is None:
            return False
        return self._keyring.authority.decide(self.principal, permission, self.address).allowed

    def _look(self) -> None:
        if self.principal is None:
            return
        authority = self._keyring.authority
        self.principal = self._keyring.current(self.principal)
        if not authority.fresh:
            self._credential_over()
        elif authority.knows(self.principal.tenant):
            for permission in self._needed:
                if not self._may(permission):
                    self.close(frames.FORBIDDEN, f"the permission {permission!r} is missing")

    def _credential_over(self) -> None:
        self.close(frames.UNAUTHENTICATED, "the credential is not valid any more")


def refusal(error: MillstreamError) -> str:
    """An error as the reason of a close frame, which has 123 bytes at most."""
    return error.what.encode()[:120].decode(errors="ignore")
