"""Clients that ask through the balancer without end, and keep what they were acknowledged and answered."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from core.ids import new_id
from tests.asking.world import payment

ASKERS = 3
PAUSE_S = 0.05


@dataclass
class Askers:
    """By key: what was asked, and what was answered, where it was waited for. others: what was no success;
    nothing is asked again."""

    url: str
    key: str
    path: str
    dice: Random
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    answered: dict[str, Any] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        headers, timeout = {"authorization": f"Bearer {self.key}"}, aiohttp.ClientTimeout(total=180)
        async with aiohttp.ClientSession(self.url, headers=headers, timeout=timeout) as http:
            tasks = [asyncio.create_task(self._ask(http)) for _ in range(ASKERS)]
            try:
                yield
            finally:
                self.stopped = True
                await asyncio.gather(*tasks)

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        while not self.stopped:
            key, body = new_id(), payment(ms=self.dice.choice((0, 5, 50)))
            waits = self.dice.random() < 0.5
            headers = {"idempotency-key": key, "prefer": "wait=60" if waits else "respond-async"}
            try:
                async with http.post(self.path, json=body, headers=headers) as answer:
                    if answer.status == (200 if waits else 202):
                        self.asked[key] = body
                        if waits:
                            self.answered[key] = await answer.json()
                    elif answer.status == 200:  # sent twice, and answered meanwhile
                        self.asked[key], self.answered[key] = body, await answer.json()
                    else:
                        self.others[f"{answer.status} {await answer.text()}"] += 1
            except aiohttp.ClientError as error:
                self.others[repr(error)] += 1
            await asyncio.sleep(PAUSE_S)
