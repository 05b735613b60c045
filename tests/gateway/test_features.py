"""Features by HTTP, on a real socket and a real Redis: what is answered, and every way to ask wrongly."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from core.clock import ManualClock
from core.errors import InvalidInput
from core.telemetry.metrics import REGISTRY
from features.online.client import connect, connect_async
from features.online.reading import AsyncFeatureReading
from features.online.rolling import RollingStore
from gateway.admission import Admission
from gateway.client import GatewayClient
from gateway.features import FeaturesEndpoint
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import EVENTS_WRITE, FEATURES_READ
from gateway.routing import Route, Router
from gateway.server import Application
from gateway.wire.listener import Listener
from tests.features.reading_views import NOW, READABLE, ago, put_all, put_of_another_layout
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rolling_behaviour import batch
from tests.features.views import VIEW, swipe
from tests.gateway.samples import KeysInMemory

pytestmark = pytest.mark.services
READER, WRITER, STRANGER = mint(), mint(), mint()
READ = "/api/v1/features/read"
CLOCK = ManualClock(NOW)


def key(of: tuple[str, str, bytes], tenant: str, scope: str) -> Key:
    return Key(of[1], of[2], tenant, "", frozenset({scope}), NOW)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        with connect(running.settings) as client:
            put_all(client)
            RollingStore(client, VIEW).write(batch([swipe_at(0, 5), swipe_at(1, 40), swipe_at(2, 55)]))
            put_of_another_layout(client)
        yield running


def swipe_at(number: int, seconds: float) -> Any:
    one = swipe(number, 0, card="c-1", cents=10 * (number + 1))
    return type(one)(**{name: getattr(one, name) for name in one.__struct_fields__} | {"at": ago(seconds)})


@asynccontextmanager
async def serving(server: RedisServer) -> AsyncIterator[httpx.AsyncClient]:
    client, coroutines = connect(server.settings), connect_async(server.settings)
    endpoint = FeaturesEndpoint(AsyncFeatureReading.of(client, coroutines, READABLE, CLOCK))
    routes = (
        Route("GET", "/api/v1/features/{view}/{entity}", FEATURES_READ, endpoint.get),
        Route("POST", READ, FEATURES_READ, endpoint.read),
    )
    keys = KeysInMemory(
        key(READER, "t", FEATURES_READ), key(WRITER, "t", EVENTS_WRITE), key(STRANGER, "u", FEATURES_READ)
    )
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    listener = Listener(Application(Admission(Router(routes), Keyring(keys, clock=CLOCK))), "127.0.0.1", port)
    listener.start()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"authorization": f"Bearer {READER[0]}"},
        timeout=30,
        transport=httpx.AsyncHTTPTransport(retries=8),
    ) as made:
        yield made
    await listener.stop(5)
    client.close()
    await coroutines.aclose()


@pytest.fixture
async def http(server: RedisServer) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(server) as made:
        yield made


async def ask(http: httpx.AsyncClient, body: Any) -> dict[str, Any]:
    answer = await http.post(READ, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def value(value: Any, status: str, seconds: float | None) -> dict[str, Any]:
    time = None if seconds is None else ago(seconds).isoformat().replace("+00:00", "Z")
    age = None if seconds is None else round(seconds * 1000)
    return {"value": value, "event_time": time, "age_ms": age, "status": status}


async def test_many_entities_of_a_rolling_view(http: httpx.AsyncClient) -> None:
    found = await ask(
        http,
        {"features": ["swipes:sum_60s", "swipes:count_10s"], "entities": ["c-1", "nobody", {"card": "c-1"}]},
    )
    one = {"swipes:sum_60s": value(60, "fresh", 5), "swipes:count_10s": value(1, "fresh", 5)}
    nobody = {"swipes:sum_60s": value(0, "missing", None), "swipes:count_10s": value(0, "missing", None)}
    assert found == {
        "as_of": "2026-03-01T12:00:00Z",
        "entities": [
            {"entity": "c-1", "features": one},
            {"entity": "nobody", "features": nobody},
            {"entity": {"card": "c-1"}, "features": one},
        ],
    }


async def test_a_service_over_views_with_different_entities(http: httpx.AsyncClient) -> None:
    york = {"region": "north", "city": "york", "zone": "a|b%"}
    found = await ask(http, {"service": "ride", "entities": [york, york | {"region": "south", "zone": "x"}]})
    assert [row["features"] for row in found["entities"]] == [
        {
            "regional_demand:bookings": value(12, "fresh", 10),
            "regional_demand:conversion": value(3.0, "fresh", 10),
            "zones:rides": value(7, "stale", 121),
            "zones:mean_fare": value(None, "expired", 121),
        },
        {
            "regional_demand:bookings": value(2, "stale", 100),
            "regional_demand:conversion": value(None, "stale", 100),
            "zones:rides": value(0, "missing", None),
            "zones:mean_fare": value(None, "missing", None),
        },
    ]


async def test_one_entity_by_its_path_in_both_shapes(http: httpx.AsyncClient) -> None:
    rolling = (await http.get("/api/v1/features/swipes/c-1")).json()
    assert rolling["features"]["sum_60s"] == value(60, "fresh", 5)
    assert list(rolling["features"]) == list(VIEW.feature_names)
    assert (rolling["view"], rolling["entity"], rolling["as_of"]) == ("swipes", "c-1", "2026-03-01T12:00:00Z")
    demand = (await http.get("/api/v1/features/regional_demand/south")).json()
    assert demand["features"]["bookings"] == value(2, "stale", 100)
    composite = await http.get("/api/v1/features/zones/york%7Ca%257Cb%2525")
    assert composite.json()["features"]["rides"] == value(7, "stale", 121)
    for path in ("swipes/nobody", "regional_demand/east", "zones/york%7Cb", "card_activity/1-2-3"):
        answer = await http.get(f"/api/v1/features/{path}")
        assert answer.status_code == 200
        assert {one["status"] for one in answer.json()["features"].values()} == {"missing"}


async def test_the_client_reads_the_same(http: httpx.AsyncClient) -> None:
    async with GatewayClient(str(http.base_url), READER[0]) as client:
        one = await client.features("zones", "york|a%7Cb%25")
        assert one is not None
        assert one["features"]["rides"] == value(7, "stale", 121)
        assert await client.features("zonez", "a") is None
        zone = {"city": "york", "zone": "a|b%", "region": "north"}
        (found,) = await client.read_features([zone], service="ride")
        assert found["zones:rides"] == value(7, "stale", 121)
        (found,) = await client.read_features(["c-1"], features=["swipes:sum_60s"], as_of=ago(20))
        assert found == {"swipes:sum_60s": value(50, "fresh", 40) | {"age_ms": 20_000}}
        with pytest.raises(InvalidInput, match="unknown service"):
            await client.read_features([zone], service="rid")


async def test_tenants_do_not_meet(http: httpx.AsyncClient) -> None:
    body = {
        "features": ["swipes:sum_60s", "regional_demand:trend"],
        "entities": [{"card": "c-1", "region": "north"}],
    }
    stranger = {"authorization": f"Bearer {STRANGER[0]}"}
    answer = await http.post(READ, json=body, headers=stranger)
    (row,) = answer.json()["entities"]
    assert {one["status"] for one in row["features"].values()} == {"missing"}
    assert (
        await http.post(READ, json=body, headers={"authorization": f"Bearer {WRITER[0]}"})
    ).status_code == 403
    assert (await http.post(READ, json=body, headers={"authorization": ""})).status_code == 401


async def test_as_of_a_recent_time(http: httpx.AsyncClient) -> None:
    body = {"features": ["swipes:count_10s"], "entities": ["c-1"], "as_of": "2026-03-01T11:59:50+00:00"}
    found = await ask(http, body)
    assert found["entities"][0]["features"]["swipes:count_10s"] == {
        "value": 0, "event_time": "2026-03-01T11:59:20Z", "age_ms": 30_000, "status": "expired",
    }  # fmt: skip
    assert found["as_of"] == "2026-03-01T11:59:50Z"
    for wrong in (
        "2026-03-01T12:00:01Z",
        "2026-03-01T11:59:00Z",
        "0001-01-01T00:00:00Z",
        "2026-03-01T11:59:50",
    ):
        answer = await http.post(READ, json=body | {"as_of": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/as_of")
    windowed = body | {"features": ["zones:rides"], "entities": [{"city": "a", "zone": "b"}]}
    assert (await http.post(READ, json=windowed)).status_code == 422


async def test_a_packed_value_with_a_wrong_fingerprint_is_missing_and_counted(
    http: httpx.AsyncClient,
) -> None:
    def counted() -> float:
        labels = {"view": "zones", "reason": "fingerprint"}
        return REGISTRY.get_sample_value("millstream_online_packed_unreadable_total", labels) or 0

    before = counted()
    found = await ask(http, {"features": ["zones:rides"], "entities": [{"city": "york", "zone": "other"}]})
    assert found["entities"][0]["features"] == {"zones:rides": value(0, "missing", None)}
    assert counted() == before + 1


async def test_what_is_read_is_counted_by_whether_it_was_there(http: httpx.AsyncClient) -> None:
    def counted(found: str) -> float:
        labels = {"view": "swipes", "found": found}
        return REGISTRY.get_sample_value("millstream_gateway_feature_reads_total", labels) or 0

    before = counted("yes"), counted("no")
    await ask(http, {"features": ["swipes:sum_60s"], "entities": ["c-1", "nobody", "nobody else"]})
    assert (counted("yes") - before[0], counted("no") - before[1]) == (1, 2)


ONE = {"features": ["swipes:sum_60s"], "entities": ["a"]}


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (ONE | {"features": ["swipe:sum_60s"]}, "unknown_view", "swipes"),
        (ONE | {"features": ["swipes:sum_61s"]}, "unknown_feature", "sum_60s"),
        ({"service": "rides", "entities": ["a"]}, "unknown_service", "ride"),
    ],
)
async def test_unknown_names_are_404_with_the_nearest(
    http: httpx.AsyncClient, body: Any, code: str, told: str
) -> None:
    answer = await http.post(READ, json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, code)
    assert repr(told) in answer.json()["mend"]


async def test_an_unknown_view_in_the_path_is_404_with_the_nearest(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/features/card_activty/a")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_view")
    assert "card_activity" in answer.json()["mend"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (ONE | {"entities": [1, "a", None]}, {"/entities/0", "/entities/2"}),
        (
            ONE | {"entities": [{"card": 3}, {"crad": "a"}]},
            {"/entities/0/card", "/entities/1/card", "/entities/1/crad"},
        ),
        (ONE | {"entities": []}, {"/entities"}),
        (ONE | {"entities": "a"}, {"/entities"}),
        (ONE | {"entities": {"card": "a"}}, {"/entities"}),
        (ONE | {"features": ["swipes"]}, {"/features/0"}),
        (ONE | {"features": ["swipes:sum_60s"] * 2}, {"/features/1"}),
        (ONE | {"features": []}, {"/features"}),
        (ONE | {"features": [1]}, {"/features/0"}),
        (ONE | {"service": "ride"}, {""}),
        ({"entities": ["a"]}, {""}),
        ({"service": 7, "entities": ["a"]}, {"/service"}),
        (ONE | {"limit": 3}, {"/limit"}),
        (ONE | {"as_of": "yesterday"}, {"/as_of"}),
        (ONE | {"as_of": 12}, {"/as_of"}),
        ({"features": ["zones:rides"], "entities": ["york|a"]}, {"/entities/0"}),
        ([ONE], {""}),
        ("read", {""}),
        (False, {""}),
    ],
    ids=lambda given: str(sorted(given) if isinstance(given, set) else given),
)
async def test_what_does_not_fit_is_422_and_names_every_place(
    http: httpx.AsyncClient, body: Any, pointers: set[str]
) -> None:
    answer = await http.post(READ, json=body)
    assert answer.status_code == 422, answer.text
    assert {one["pointer"] for one in answer.json()["errors"]} == pointers


async def test_a_path_that_is_no_composite_entity_is_422(http: httpx.AsyncClient) -> None:
    for entity in ("york", "york%7Ca%7Cb"):
        assert (await http.get(f"/api/v1/features/zones/{entity}")).status_code == 422


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (b"{", 400, "malformed_body"),
        (b"null", 422, "invalid_request"),
        (b'{"service":"ride","entities":["a"],"entities":["b"]}', 400, "duplicate_key"),
        (b'{"entities":[{"card":"a","card":"b"}]}', 400, "duplicate_key"),
        (b'{"entities":["\xff"]}', 400, "malformed_body"),
        (b'{"entities":["\\ud800"]}', 400, "malformed_body"),
        (b'{"as_of":NaN}', 400, "malformed_body"),
        (b"[" * 5_000 + b"]" * 5_000, 400, "too_deep"),
        (b'{"entities": ' + b'{"a": ' * 200 + b"1" + b"}" * 200 + b"}", 400, "too_deep"),
        (b'{"entities":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", 400, "too_deep"),
        (b'{"entities":' + b'{"a":' * 20 + b"1" + b"}" * 20 + b"}", 422, "invalid_request"),
        (b'{"entities":["' + b"x" * 300_000 + b'"]}', 413, "too_large"),
        (json.dumps(ONE | {"entities": ["a"] * 1_001}).encode(), 413, "too_many_entities"),
        (json.dumps(ONE | {"features": ["a:b"] * 257}).encode(), 413, "too_many_features"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_hostile_bodies_are_refused(
    http: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    answer = await http.post(READ, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-ndjson", "application/json; charset=latin-1"])
async def test_other_types_of_content_are_415(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.post(READ, content=json.dumps(ONE), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_no_mutilated_body_makes_an_error_of_ours(http: httpx.AsyncClient) -> None:
    chance, good = random.Random(7), json.dumps(ONE | {"as_of": "2026-03-01T11:59:50Z"}).encode()
    for _ in range(400):
        body = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            match chance.randrange(3):
                case 0:
                    body[at] = chance.randrange(256)
                case 1:
                    del body[at : at + chance.randint(1, 9)]
                case _:
                    body[at:at] = chance.choice([b'"', b"[", b"{", b"null", b"1e400", b"\\u0000", b",", b":"])
        answer = await http.post(READ, content=bytes(body), headers={"content-type": "application/json"})
        assert answer.status_code < 500, (bytes(body), answer.text)


async def test_a_thousand_entities_and_a_hundred_requests_at_once(http: httpx.AsyncClient) -> None:
    cards = [f"c-{n}" for n in range(1_000)]
    names = [f"swipes:{name}" for name in VIEW.feature_names]
    large = {"features": names, "entities": cards}
    small = {"features": ["regional_demand:trend"], "entities": ["north"]}
    found = await asyncio.gather(ask(http, large), *(ask(http, small) for _ in range(100)))
    assert [row["entity"] for row in found[0]["entities"]] == cards
    assert found[0]["entities"][1]["features"]["swipes:sum_60s"] == value(60, "fresh", 5)
    assert len(found[0]["entities"][999]["features"]) == len(names)
    assert all(one["entities"] == found[1]["entities"] for one in found[1:])


async def test_more_values_than_an_answer_may_have_are_refused(http: httpx.AsyncClient) -> None:
    views = [READABLE.view(name) for name in ("swipes", "card_activity", "regional_demand")]
    features = [f"{view.name}:{name}" for view in views for name in view.feature_names]
    entities = [{"card": "a", "card_id": "b", "region": "c"}] * 1_000
    refused = await http.post(READ, json={"features": features, "entities": entities})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_values")
    assert len(features) == 54
    assert (await http.post(READ, json={"features": features, "entities": entities[:900]})).status_code == 200


async def test_while_redis_is_away_both_are_503_with_retry_after() -> None:
    with own_redis() as server:
        async with serving(server) as http:
            paths = ("/api/v1/features/swipes/a", "/api/v1/features/regional_demand/a")
            bodies = [ONE, {"features": ["regional_demand:trend"], "entities": ["a"]}]
            for running in (True, False, True):
                answers = [await http.get(path) for path in paths]
                answers += [await http.post(READ, json=body) for body in bodies]
                if running:
                    assert [answer.status_code for answer in answers] == [200] * 4
                    server.kill()
                else:
                    assert [answer.status_code for answer in answers] == [503] * 4
                    assert {answer.json()["code"] for answer in answers} == {"redis_unavailable"}
                    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
                    server.start()
