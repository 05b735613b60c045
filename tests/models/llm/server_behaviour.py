"""What every LLM server does for its client, stated once for the fake and the real one."""

import asyncio
from contextlib import aclosing
from typing import Protocol

import pytest

from core.errors import InvalidInput, Rejected
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from operators.generate_ports import Completion, Delta, Message

QUESTION = (Message("user", "Tell me about rivers."),)


class Backend(Protocol):
    url: str
    model: str

    async def busy(self) -> int:
        """Answers being generated."""
        ...


async def all_of(server: HttpLanguageServer, completion: Completion) -> tuple[str, list[Delta]]:
    async with aclosing(server.complete(completion)) as deltas:
        found = [delta async for delta in deltas]
    return "".join(delta.text for delta in found), found


async def until_idle(backend: Backend, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while await backend.busy():
            await asyncio.sleep(0.02)


class ServerBehaviour:
    """Inherit, and give the fixtures `backend` and `server`."""

    @pytest.fixture
    async def server(self, backend: Backend):  # type: ignore[no-untyped-def]
        server = HttpLanguageServer("s", backend.model, backend.url, pooling=Pooling(silence_s=60.0))
        yield server
        await server.close()

    async def test_an_answer_comes_in_parts_with_its_end_and_its_usage(
        self, server: HttpLanguageServer
    ) -> None:
        text, deltas = await all_of(server, Completion(QUESTION, 12, temperature=0.0))
        assert text.strip()
        assert sum(bool(delta.text) for delta in deltas) > 6
        assert [delta.finish for delta in deltas if delta.finish] == ["length"]
        (usage,) = [delta.usage for delta in deltas if delta.usage]
        assert usage.completion_tokens == 12
        assert usage.prompt_tokens > 4

    async def test_one_answer_after_the_other_whatever_becomes_of_the_connection(
        self, server: HttpLanguageServer
    ) -> None:
        for _ in range(4):
            text, _ = await all_of(server, Completion(QUESTION, 2, temperature=0.0))
            assert text

    async def test_a_server_goes_on_after_what_has_been_said(self, server: HttpLanguageServer) -> None:
        whole, _ = await all_of(server, Completion(QUESTION, 12, temperature=0.0))
        begun, _ = await all_of(server, Completion(QUESTION, 6, temperature=0.0))
        rest, _ = await all_of(server, Completion(QUESTION, 12, temperature=0.0).after(begun, 6))
        assert whole.startswith(begun)
        assert rest
        assert not rest.startswith(begun)
        assert (begun + rest)[: len(begun) + 4] == whole[: len(begun) + 4]

    async def test_a_server_goes_on_after_a_beginning_that_it_was_given(
        self, server: HttpLanguageServer
    ) -> None:
        beginning = (*QUESTION, Message("assistant", "The longest rivers are the Nile and the"))
        rest, deltas = await all_of(server, Completion(beginning, 6, temperature=0.0, open=True))
        assert rest.startswith(" ")
        assert [delta.finish for delta in deltas if delta.finish] == ["length"]
        later = Completion(beginning, 6, temperature=0.0, open=True).after(rest, 3)
        assert (await all_of(server, later))[0]

    async def test_a_client_that_leaves_frees_the_slot(
        self, server: HttpLanguageServer, backend: Backend
    ) -> None:
        async with aclosing(server.complete(Completion(QUESTION, 400, temperature=0.0))) as deltas:
            async for delta in deltas:
                if delta.text:
                    break
            assert await backend.busy() == 1
        await until_idle(backend, 20.0)

    async def test_a_cancelled_call_frees_the_slot(
        self, server: HttpLanguageServer, backend: Backend
    ) -> None:
        task = asyncio.create_task(all_of(server, Completion(QUESTION, 400, temperature=0.0)))
        async with asyncio.timeout(60):
            while not await backend.busy():
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_idle(backend, 20.0)

    async def test_a_prompt_beyond_the_context_is_refused_naming_it(self, server: HttpLanguageServer) -> None:
        with pytest.raises(Rejected) as caught:
            await all_of(server, Completion((Message("user", "word " * 3000),), 4))
        assert "/prompt" in caught.value.fields

    async def test_tokens_are_counted(self, server: HttpLanguageServer) -> None:
        assert await server.count_tokens("one two three") == 3

    async def test_a_healthy_server_scores(self, server: HttpLanguageServer) -> None:
        health = await server.probe()
        assert 0.0 < health.score <= 1.0
        assert health.tokens_per_s > 0

    async def test_a_connection_is_used_again(self, server: HttpLanguageServer) -> None:
        for _ in range(3):
            await server.count_tokens("one two")
        assert server.connections.taken.new == 1
        assert server.connections.taken.reused == 2

    async def test_what_the_server_calls_wrong_is_no_fault_of_its(self, server: HttpLanguageServer) -> None:
        with pytest.raises(InvalidInput):
            await all_of(server, Completion((Message("user", "word " * 3000),), 4))
        assert (await server.probe()).score > 0
