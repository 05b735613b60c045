"""Asking LLM servers: one after the other, until one has come to the end of the answer."""

import asyncio
from contextlib import aclosing

from core.clock import Clock
from core.errors import InvalidInput, ServerFailed, Unavailable
from operators.generate_answer import Asked, Handover, Progress
from operators.generate_ports import PaidCalls
from operators.server_pool import Lease, ServerPool, Wanted


class ServerCalls:
    """Calls to the servers of a pool, under their breakers, and through the ledger where they cost money."""

    def __init__(self, pool: ServerPool, *, clock: Clock, ledger: PaidCalls | None = None) -> None:
        self.pool = pool
        self._clock = clock
        self._ledger = ledger

    async def through(self, asked: Asked, wanted: Wanted) -> Lease:
        """Ask one server after the other of those wanted; the lease of the one that came to the end, which is
        over. Raises what the last one raised; a call that may have been paid for is followed by none."""
        progress = asked.progress
        if progress.paid is not None:
            raise progress.paid
        error: Unavailable | None = None
        counting = asyncio.create_task(self._count(asked, wanted))
        counting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            while True:
                if error is not None and not self.pool.left(wanted):
                    raise error
                lease = await self.pool.enter(wanted)
                try:
                    progress.queue_s += lease.queue_s
                    progress.slot_s += lease.slot_s
                    progress.batch = progress.batch or lease.batch
                    if progress.previous is not None and progress.text:
                        await self._hand_over(progress.previous, lease, asked)
                    await self._ask(asked, lease)
                    if counting.done() and counting.exception() is None:
                        progress.tokenization_s = counting.result()
                    return lease
                except InvalidInput:
                    if not progress.text or progress.previous is None:
                        raise
                    # it cannot go on after what another one said, and is asked for all of it
                    await self._anew(progress.previous, lease, "it does not continue answers", asked)
                except Unavailable as failed:
                    error = failed
                    progress.failures.append(f"{lease.member.server.name}: {failed.what}")
                    if asked.claim is not None and not (isinstance(failed, ServerFailed) and failed.undone):
                        progress.paid = failed
                        raise
                    names = wanted.without | {lease.member.server.name}
                    wanted = Wanted(wanted.model, wanted.backup, names)
                finally:
                    progress.previous = lease
                    self.pool.leave(lease)
        finally:
            counting.cancel()

    async def _ask(self, asked: Asked, lease: Lease) -> None:
        member, progress, claim, ledger = lease.member, asked.progress, asked.claim, self._ledger
        ticket = await member.breaker.admit()
        completion = asked.generation.completion
        if progress.text:
            completion = completion.after(progress.text, progress.tokens)
        asked_at = self._clock.monotonic()
        progress.asked_at = progress.asked_at or asked_at
        heard = False
        try:
            if claim is not None and ledger is not None:
                await ledger.paying(claim)
            async with aclosing(member.server.complete(completion)) as deltas:
                async for delta in deltas:
                    heard = True
                    progress.decoding_s += delta.decoding_s
                    if delta.text:
                        progress.last_at = self._clock.monotonic()
                        if progress.first_at is None:
                            progress.first_at = progress.last_at
                        first = not progress.text
                        progress.text += delta.text
                        progress.tokens += 1
                        named = {"model": member.server.model} if first else {}
                        await asked.say({"text": delta.text, **named})
                    if delta.usage is not None:
                        progress.usage = progress.usage.plus(delta.usage)
                    progress.finish = delta.finish or progress.finish
        except ServerFailed as error:
            self.pool.failed(lease, error)
            await (member.breaker.abandoned if error.kind == "busy" else member.breaker.failed)(ticket)
            if claim is not None and ledger is not None and error.undone:
                await ledger.unpaid(claim)
            whole = progress.tokens == asked.generation.completion.max_tokens and error.kind != "garbage"
            if progress.finish or whole:
                progress.finish = progress.finish or "length"
                return  # all was said before it failed
            raise
        except InvalidInput:
            await member.breaker.abandoned(ticket)
            if claim is not None and ledger is not None:
                await ledger.unpaid(claim)
            raise
        except BaseException:
            if claim is not None and progress.paid is None:  # its level's time may be over: no other may pay
                progress.paid = Unavailable("the call may have been paid for", code="paid_without_answer")
            silent = not heard and self._over(progress)
            await (member.breaker.failed if silent else member.breaker.abandoned)(ticket)
            raise
        self.pool.succeeded(lease)
        await member.breaker.succeeded(ticket)

    def _over(self, progress: Progress) -> bool:
        """Whether the time of the level has passed: its server was too slow, nobody left."""
        return progress.until is not None and self._clock.monotonic() >= progress.until

    async def _hand_over(self, previous: Lease, lease: Lease, asked: Asked) -> None:
        """Say in the stream that another server goes on. Another model begins anew."""
        reason = asked.progress.failures[-1] if asked.progress.failures else "it took too long"
        if lease.member.server.model != previous.member.server.model:
            await self._anew(previous, lease, reason, asked)
        else:
            await asked.say({"continued": _handover(previous, lease, reason, asked.progress)})

    async def _anew(self, previous: Lease, lease: Lease, reason: str, asked: Asked) -> None:
        await asked.say({"restarted": _handover(previous, lease, reason, asked.progress)})
        asked.progress.restart()

    async def _count(self, asked: Asked, wanted: Wanted) -> float | None:
        """Seconds that a server takes to count the prompt's tokens; beside the question, not before it."""
        begun = self._clock.monotonic()
        members = self.pool.of(wanted.model or self.pool.active)
        member = next((member for member in members if member.up), members[0])
        counted = await member.server.count_tokens(asked.generation.completion.text)
        return None if counted is None else self._clock.monotonic() - begun


def _handover(previous: Lease, lease: Lease, reason: str, progress: Progress) -> Handover:
    return Handover(
        previous=previous.member.server.name,
        server=lease.member.server.name,
        reason=reason[:300],
        characters=len(progress.text),
    )
