"""Asking without Kafka: the answerer runs in the tests' own loop, pieces go through a bounded queue."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Self

from operators.asking import Answer, Answerer, Question
from schemas.headers import NOBODY


class InProcessUnderWay:
    """Leaving cancels the answerer, as the worker's host does."""

    def __init__(self, answerer: Answerer, question: Question) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(answerer.answer(question, self._emit))
        self.task.add_done_callback(lambda task: self._changed.set())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def ready(self) -> None:
        await self._changed.wait()
        if self.task.done() and self._pieces.empty():
            self.task.result()

    async def pieces(self) -> AsyncIterator[bytes | None]:
        while True:
            while not self._pieces.empty():
                yield self._pieces.get_nowait()
            if self.task.done():
                self.task.result()
                return
            self._changed.clear()
            await self._changed.wait()

    async def end(self) -> Answer:
        return await asyncio.shield(self.task)

    async def _emit(self, piece: bytes) -> None:
        await self._pieces.put(piece)
        self._changed.set()


class InProcessAsking:
    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self.asked: list[Question] = []

    async def ask(
        self,
        question: Question,
        *,
        credential: str,
        traceparent: str | None = None,
        caller: Mapping[str, str] = NOBODY,
    ) -> InProcessUnderWay:
        del credential, traceparent, caller
        self.asked.append(question)
        return InProcessUnderWay(self._answerer, question)
