"""The registry client: the behaviour suite over the fake, then caching, pacing and being away."""

import httpx
import pytest

from core.clock import ManualClock
from core.errors import Unavailable, UnknownName
from schemas.catalog.alerts import Alert
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from tests.schemas.memory_registry import MemoryRegistry
from tests.schemas.registry_behaviour import FIRST, RegistryBehaviour

URL = "http://127.0.0.1:1/"


@pytest.fixture
def server() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(server: MemoryRegistry, clock: ManualClock) -> SchemaRegistry:
    return SchemaRegistry(URL, transport=server.transport(), clock=clock)


@pytest.fixture
def second(server: MemoryRegistry) -> SchemaRegistry:
    return SchemaRegistry(URL, transport=server.transport())


class TestInMemory(RegistryBehaviour):
    """The fake passes what the real one must pass."""


def test_what_is_known_is_not_asked_again(registry: SchemaRegistry, server: MemoryRegistry) -> None:
    number = registry.register("s", FIRST)
    server.calls.clear()
    for _ in range(3):
        assert registry.id_of("s", FIRST) == number
        assert registry.schema(number) == FIRST
    assert server.calls == []


def test_what_is_known_survives_the_registry(registry: SchemaRegistry, server: MemoryRegistry) -> None:
    number = registry.register("s", FIRST)
    server.away = True
    assert registry.schema(number) == FIRST
    assert not registry.reachable()


def test_an_unknown_id_is_asked_for_again_after_a_while(
    registry: SchemaRegistry, server: MemoryRegistry, clock: ManualClock
) -> None:
    for _ in range(3):
        with pytest.raises(UnknownName):
            registry.schema(1)
    assert server.calls == ["GET /schemas/ids/1"]
    SchemaRegistry(URL, transport=server.transport()).register("s", FIRST)
    clock.elapsed += 31
    assert registry.schema(1) == FIRST


@pytest.mark.parametrize("how", ["away", "failing"])
def test_being_away_is_retryable_and_says_how_to_mend(
    registry: SchemaRegistry, server: MemoryRegistry, how: str
) -> None:
    setattr(server, how, True)
    for call in (
        lambda: registry.schema(1),
        lambda: registry.id_of("s", FIRST),
        lambda: registry.latest("s"),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "registry_unavailable"
        assert caught.value.retryable
        assert caught.value.mend
    setattr(server, how, False)
    assert registry.register("s", FIRST) == 1


def test_what_is_no_registry_at_all_is_unavailable() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with pytest.raises(Unavailable, match="without JSON"):
        SchemaRegistry(URL, transport=page).latest("s")


def test_producers_register_only_where_it_is_allowed(server: MemoryRegistry) -> None:
    free = SchemaRegistry(URL, transport=server.transport(), auto_register=True)
    assert free.id_of("s", FIRST) == 1
    assert server.subjects == {"s": [FIRST]}


def an_alert() -> Alert:
    return Alert(
        tenant="a", id="1", severity="info", kind="k", source="s", subject="t", text="x",
        deduplication_key="d", raised_at=ManualClock().now(),
    )  # fmt: skip


def test_a_batch_waits_for_an_absent_registry_and_blames_no_message(server: MemoryRegistry) -> None:
    writer = RecordCodec(Alert, SchemaRegistry(URL, transport=server.transport(), auto_register=True), "s")
    value = writer.encode(an_alert())
    reader = RecordCodec(Alert, SchemaRegistry(URL, transport=server.transport()), "s")
    server.away = True
    with pytest.raises(Unavailable):
        reader.decode_batch([value])
    with pytest.raises(Unavailable):
        reader.encode(an_alert())
    server.away = False
    assert reader.decode_batch([value, value]).batch.num_rows == 2
