"""What two answering processes share over Redis, and what each has left when it is away."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from core.errors import CircuitOpen, DeclarationError, ServerFailed
from core.settings import Llm, Redis, Settings
from jobs.worker.generating import GeneratingAnswerer, make_answerer
from operators.breaker import Breaking
from tests.features.redis_server import RedisServer, own_redis
from tests.llm_fake import FakeServer, fake_server
from tests.operators.generating import Heard, asked, words


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time, too."""
    monkeypatch.setattr("jobs.worker.generating.CACHE_READ_S", 60.0)


@asynccontextmanager
async def processes(
    redis: RedisServer, count: int, **llm: object
) -> AsyncIterator[tuple[FakeServer, list[GeneratingAnswerer]]]:
    """So many answerers over one fake server."""
    async with AsyncExitStack() as exits:
        fake = await exits.enter_async_context(fake_server())
        own = Llm.model_validate({"url": f"fake={fake.url}", "tokens_per_s": 0.01, **llm})
        settings = Settings(llm=own, redis=Redis(url=f"redis://127.0.0.1:{redis.port}"))
        made = []
        for _ in range(count):
            answerer = make_answerer(settings)
            exits.push_async_callback(answerer.close)
            await answerer.start()
            made.append(answerer)
        fake.seen.clear()
        yield fake, made


@pytest.mark.services
async def test_kept_answers_are_those_of_all_processes(redis: RedisServer) -> None:
    async with processes(redis, 2) as (fake, (one, other)):
        first = json.loads((await one.answer(asked(), Heard())).body)
        await one._generate.close()
        heard = Heard()
        second = json.loads((await other.answer(asked(id="q2"), heard)).body)
        assert second["text"] == first["text"] == heard.text == words(10)
        assert second["statistics"]["cache_hit"]
        assert len(fake.seen) == 1


@pytest.mark.services
async def test_what_one_process_knows_of_a_failing_server_all_know(redis: RedisServer) -> None:
    async with processes(redis, 2) as (fake, (one, other)):
        fake.script = ["status_500"] * Breaking().failures
        for number in range(Breaking().failures):
            with pytest.raises(ServerFailed):
                await one.answer(asked(id=f"q{number}"), Heard())
        with pytest.raises(CircuitOpen):
            await other.answer(asked(id="q9"), Heard())
        assert len(fake.seen) == Breaking().failures


@pytest.mark.services
async def test_without_sharing_each_process_is_alone(redis: RedisServer) -> None:
    async with processes(redis, 2, shared=False) as (fake, (one, other)):
        await one.answer(asked(), Heard())
        await one.answer(asked(id="q2"), Heard())
        await other.answer(asked(id="q3"), Heard())
        assert len(fake.seen) == 2


@pytest.mark.services
async def test_while_redis_is_away_each_process_goes_on_alone_and_says_so_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[object] = []
    monkeypatch.setattr(
        "pipelines.on_redis.round_trips._LOG.warning", lambda event, **told: places.append(told["where"])
    )
    async with processes(redis, 1) as (fake, (one,)):
        redis.kill()
        for number in range(20):
            answer = json.loads((await one.answer(asked(f"p{number}", id=f"q{number}"), Heard())).body)
            assert answer["text"] == words(10)
        again = json.loads((await one.answer(asked("p0", id="again"), Heard())).body)
        assert again["statistics"]["cache_hit"]
        await one._generate.close()
        assert places
        assert len(places) == len(set(places))
        fake.script = ["status_500"] * Breaking().failures
        for number in range(Breaking().failures):
            with pytest.raises(ServerFailed):
                await one.answer(asked(f"f{number}", id=f"f{number}"), Heard())
        with pytest.raises(CircuitOpen):
            await one.answer(asked("f9", id="f9"), Heard())


def test_slots_without_connections_for_them_are_refused() -> None:
    with pytest.raises(DeclarationError) as caught:
        make_answerer(Settings(llm=Llm(slots=16, connections=16)))
    assert "MILLSTREAM_LLM__CONNECTIONS" in str(caught.value)
