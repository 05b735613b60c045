"""The behaviour of servers on the fake, and every way in which a server fails."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from core.errors import Rejected, ServerFailed
from models.llm.client import STALE, HttpLanguageServer
from models.llm.connections import Pooling
from operators.generate_ports import Completion
from tests.llm_fake import AT_ONCE, MID_STREAM, NEVER_STOPS, FakeServer, fake_server
from tests.models.llm.server_behaviour import QUESTION, ServerBehaviour, all_of

SILENCE_S = 0.3
KINDS = {
    "garbage_json": "garbage", "not_utf8": "garbage", "giant_line": "garbage", "wrong_shape": "garbage",
    "html": "garbage", "json_body": "garbage", "no_http": "garbage", NEVER_STOPS: "garbage",
    "hang": "silent", "hang_at_once": "silent",
    "reset": "lost", "close": "lost", "reset_at_once": "lost", "empty": "lost",
    "error_event": "failed", "status_500": "failed",
    "status_429": "busy", "status_503": "busy",
    "status_401": "refused", "status_302": "refused",
}  # fmt: skip


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with fake_server() as server:
        yield server


class TestFakeServer(ServerBehaviour):
    @pytest.fixture
    def backend(self, fake: FakeServer) -> FakeServer:
        fake.seconds_per_token = 0.005
        return fake


@pytest.mark.parametrize("behaviour", [*AT_ONCE, *MID_STREAM, NEVER_STOPS])
async def test_a_failure_has_its_kind_and_never_hangs(fake: FakeServer, behaviour: str) -> None:
    server = HttpLanguageServer("s", "fake", fake.url, pooling=Pooling(silence_s=SILENCE_S))
    fake.script = [behaviour]
    begun = time.monotonic()
    with pytest.raises(ServerFailed) as caught:
        await asyncio.wait_for(all_of(server, Completion(QUESTION, 20)), 10)
    assert caught.value.kind == KINDS[behaviour]
    assert time.monotonic() - begun < 5
    text, _ = await all_of(server, Completion(QUESTION, 3))  # and the next call is none the worse
    assert text == "w0 w1 w2"
    await server.close()


async def test_what_comes_before_a_failure_is_given(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    fake.script = ["reset"]
    said: list[str] = []

    async def hear() -> None:
        async for delta in server.complete(Completion(QUESTION, 20)):
            said.append(delta.text)

    with pytest.raises(ServerFailed):
        await hear()
    assert "".join(said) == "w0 w1 w2"
    await server.close()


async def test_an_answer_without_the_last_line_is_whole(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    fake.script = ["no_done"]
    text, _ = await all_of(server, Completion(QUESTION, 3))
    assert text == "w0 w1 w2"
    await server.close()


async def test_nobody_listens() -> None:
    async with fake_server() as gone:
        url = gone.url
    server = HttpLanguageServer("s", "fake", url)
    with pytest.raises(ServerFailed) as caught:
        await all_of(server, Completion(QUESTION, 3))
    assert caught.value.kind == "unreachable"
    assert (await server.probe()).score == 0.0
    assert await server.count_tokens("a b") is None
    await server.close()


async def test_the_pool_is_bounded_and_the_wait_for_a_connection_too(fake: FakeServer) -> None:
    pooling = Pooling(connections=2, wait_s=0.2, silence_s=5)
    server = HttpLanguageServer("s", "fake", fake.url, pooling=pooling)
    fake.seconds_per_token = 0.01
    results = await asyncio.gather(
        *(all_of(server, Completion(QUESTION, 100)) for _ in range(3)), return_exceptions=True
    )
    failures = [one for one in results if isinstance(one, ServerFailed)]
    assert [one.kind for one in failures] == ["unreachable"]
    assert fake.most_open == 2
    assert server.connections.taken.waited == 1
    assert server.connections.taken.new == 2
    await server.close()


async def test_the_connection_of_a_stream_is_used_again(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    for _ in range(4):
        await all_of(server, Completion(QUESTION, 2))
    assert (server.connections.taken.new, server.connections.taken.reused) == (2, 2)  # the first is not kept
    await server.close()


async def test_a_kept_connection_that_the_server_gave_up_is_no_failure_of_its(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    for _ in range(2):
        await all_of(server, Completion(QUESTION, 1))
    fake.script = ["reset_at_once"]  # as one that closes it while the request is on its way
    text, _ = await all_of(server, Completion(QUESTION, 3))
    assert text == "w0 w1 w2"
    assert server.connections.taken.reused == 1
    fake.script = ["reset_at_once"] * 2  # once on a kept one, once on a new one: that is its failure
    with pytest.raises(ServerFailed) as caught:
        await all_of(server, Completion(QUESTION, 3))
    assert caught.value.kind == "lost"
    assert fake.script == []
    await server.close()


async def test_many_kept_connections_that_were_given_up_cost_one_call_a_few_of_them(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    fake.seconds_per_token = 0.02
    await all_of(server, Completion(QUESTION, 1))
    await asyncio.gather(*(all_of(server, Completion(QUESTION, 4)) for _ in range(6)))
    fake.script = ["reset_at_once"] * 6
    with pytest.raises(ServerFailed):
        await all_of(server, Completion(QUESTION, 3))
    assert len(fake.script) == 6 - 1 - STALE
    await server.close()


async def test_without_kept_connections_nothing_is_sent_twice(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url, pooling=Pooling(kept=False))
    for _ in range(3):
        await all_of(server, Completion(QUESTION, 1))
        assert await server.count_tokens("one two") == 2
    fake.seen.clear()
    fake.script = ["reset_at_once"]
    with pytest.raises(ServerFailed):
        await all_of(server, Completion(QUESTION, 3))
    assert len(fake.seen) == 1
    assert (server.connections.taken.new, server.connections.taken.reused) == (7, 0)
    await server.close()


async def test_an_error_that_comes_in_pieces_is_read_to_its_end(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url)
    fake.script = ["error_in_pieces"]
    with pytest.raises(Rejected) as caught:
        await all_of(server, Completion(QUESTION, 3))
    assert "/prompt" in caught.value.fields
    await server.close()


async def test_a_server_that_tells_no_usage_is_healthy(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url, floor=0.01)
    fake.script = ["no_usage"]
    heard: list[int] = []
    assert (await server.probe(heard.append)).score == 1.0
    assert heard == sorted(heard)
    assert heard[-1] == 100
    await server.close()


async def test_an_idle_connection_is_closed(fake: FakeServer) -> None:
    server = HttpLanguageServer("s", "fake", fake.url, pooling=Pooling(idle_s=0.05))
    await all_of(server, Completion(QUESTION, 1))
    await asyncio.sleep(0.2)
    await all_of(server, Completion(QUESTION, 1))
    assert server.connections.taken.new == 2
    await server.close()


async def test_a_slow_server_scores_less(fake: FakeServer) -> None:
    fake.seconds_per_token = 0.1
    server = HttpLanguageServer("s", "fake", fake.url, floor=100.0)
    health = await server.probe()
    assert 0.05 < health.score < 0.15
    assert 5 < health.tokens_per_s < 15
    assert health.reason is not None
    await server.close()
