"""The Python client: publish events, follow what becomes of them, come back where one left off.

    async with GatewayClient("http://127.0.0.1:8000", key) as client:
        outcomes = await client.publish("fraud", events)
        async for event in client.listen("fraud"):
            print(event.id, event.data["status"])

`listen` reconnects by itself with the positions it has seen, so that a gateway that dies, drains or closes a
slow client costs time and no events; what cannot be had any more is told in `Listening.gaps`. `stream` is one
socket, for publishing and asking over it too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import aiohttp
import msgspec

from core.errors import Denied, InvalidInput, Unavailable
from gateway.push.frames import Policy
from gateway.stream_client import Listening, PushedEvent, Stream, error_of
from gateway.user_session import EXPIRED, Credential, UserSession, text_of

__all__ = ["Batch", "GatewayClient", "Listening", "Outcome", "PushedEvent", "Stream", "UserSession"]

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
_ACKNOWLEDGE_S = 1.0
_encode = msgspec.json.Encoder().encode


class Outcome(msgspec.Struct, frozen=True):
    """What became of one event: `status` 202, or that of `problem`."""

    index: int
    status: int
    accepted: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.status == 202

    @property
    def again(self) -> bool:
        """Whether the same event, unchanged, can be accepted later: a limit or an outage was in the way."""
        return self.status in (429, 503)

    @property
    def id(self) -> str | None:
        return self.accepted["id"] if self.accepted else None


class _Outcomes(msgspec.Struct, frozen=True):
    outcomes: list[Outcome]


@dataclass(frozen=True)
class Batch:
    """The answer to one request of several events. `server_ms` is the gateway's own timing by stage."""

    outcomes: list[Outcome]
    server_ms: dict[str, float]


class _Answer(NamedTuple):
    status: int
    body: bytes
    timing: str


_outcomes = msgspec.json.Decoder(_Outcomes)


class GatewayClient:
    """One gateway, one credential: an API key, or a user's session, whose expired access token is refreshed
    once and the request sent again. Use it as an asynchronous context manager."""

    def __init__(self, url: str, key: Credential, *, timeout_s: float = 30.0, connections: int = 32) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def publish(
        self, pipeline: str, events: Iterable[Any], *, batch: int = 500, parallel: int = 4
    ) -> list[Outcome]:
        """Publish all (dictionaries or records), `batch` a request, `parallel` requests at once.

        One outcome per event, in order. A request that is refused as a whole with 429 or 503 gives its events
        that status; nothing is sent again behind the caller's back.
        """
        items = list(events)
        parts = [items[start : start + batch] for start in range(0, len(items), batch)]
        gate = asyncio.Semaphore(parallel)

        async def one(part: list[Any]) -> list[Outcome]:
            async with gate:
                return (await self.publish_batch(pipeline, part)).outcomes

        done = await asyncio.gather(*(one(part) for part in parts))
        together = [outcome for part in done for outcome in part]
        return [msgspec.structs.replace(outcome, index=index) for index, outcome in enumerate(together)]

    async def publish_batch(self, pipeline: str, events: Sequence[Any]) -> Batch:
        """One request. Raises Denied (401, 403), InvalidInput (any other 4xx of the request as a whole)."""
        return await self._publish(f"/api/v1/pipelines/{pipeline}/events", events)

    async def ingest(self, events: Sequence[Any]) -> Batch:
        """User events, in one request to `POST /events`; as `publish_batch`."""
        return await self._publish("/events", events)

    async def _publish(self, path: str, events: Sequence[Any]) -> Batch:
        body = b"\n".join(map(_encode, events))
        answer = await self._request("POST", path, body, NDJSON)
        timing = _server_timing(answer.timing)
        if answer.status in (202, 207):
            return Batch(_outcomes.decode(answer.body).outcomes, timing)
        problem = _problem(answer)
        if answer.status in (429, 503):
            status = answer.status
            return Batch([Outcome(i, status, problem=problem) for i in range(len(events))], timing)
        raise error_of(answer.status, problem)

    async def transaction(self, id: str) -> dict[str, Any] | None:
        """The status of one event; None where there is none."""
        return await self._get(f"/api/v1/transactions/{id}")

    async def ask(
        self, pipeline: str, request: Any, *, key: str | None = None, wait_s: int | None = None
    ) -> dict[str, Any]:
        """The pipeline's answer to one request (a dictionary or a record), waited for `wait_s` seconds or as
        long as the gateway has it. With a `key` it can be asked again, of any gateway, for the same answer.

        Raises InvalidInput, Denied, and Unavailable where the same may be asked again: the queue was full,
        something is away, or there was no answer in time.
        """
        answer = await self._ask(pipeline, request, key, None if wait_s is None else f"wait={wait_s}")
        if answer.status >= 400:
            raise error_of(answer.status, _problem(answer))
        found: dict[str, Any] = msgspec.json.decode(answer.body)
        return found

    async def ask_later(self, pipeline: str, request: Any, *, key: str | None = None) -> str:
        """The id under which `outcome` has the answer, once it is there. Raises as `ask`."""
        answer = await self._ask(pipeline, request, key, "respond-async")
        if answer.status >= 400:
            raise error_of(answer.status, _problem(answer))
        id: str = msgspec.json.decode(answer.body)["id"]
        return id

    async def outcome(self, id: str) -> dict[str, Any] | None:
        """What became of a request so far: `state`, and `answer` or `problem`. None where there is none."""
        return await self._get(f"/api/v1/requests/{quote(id, safe='')}")

    async def _ask(self, pipeline: str, request: Any, key: str | None, prefer: str | None) -> _Answer:
        headers = dict(JSON)
        headers |= {"idempotency-key": key} if key is not None else {}
        headers |= {"prefer": prefer} if prefer is not None else {}
        return await self._request("POST", f"/api/v1/pipelines/{pipeline}/infer", _encode(request), headers)

    async def features(self, view: str, entity: str) -> dict[str, Any] | None:
        """The features of an entity as of now, each with value, event time, age and status; None when there
        is no such view. A composite entity is written as `schemas.keys.entity_of` does."""
        return await self._get(f"/api/v1/features/{view}/{quote(entity, safe='')}")

    async def read_features(
        self,
        entities: Sequence[str | Mapping[str, str]],
        *,
        features: Sequence[str] = (),
        service: str | None = None,
        as_of: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """The features (`view:feature`), or those of a service, of each entity, in order: by name the value,
        event_time, age_ms and status. Raises InvalidInput, for unknown names too, and Unavailable."""
        asked: dict[str, Any] = {"entities": entities, "as_of": as_of}
        asked |= {"features": features} if service is None else {"service": service}
        answer = await self._request("POST", "/api/v1/features/read", _encode(asked), JSON)
        if answer.status != 200:
            raise error_of(answer.status, _problem(answer))
        return [row["features"] for row in msgspec.json.decode(answer.body)["entities"]]

    def stream(self) -> Stream:
        """One socket to the gateway, to be entered."""
        return Stream(self._url, self._key)

    async def listen(
        self,
        pipeline: str | None,
        *,
        channel: str = "results",
        entity: str | None = None,
        filter: Mapping[str, Any] | None = None,
        name: str | None = None,
        policy: Policy = "disconnect",
        state: Listening | None = None,
        stop: Callable[[], bool] = lambda: False,
        backoff_s: float = 0.1,
        longest_backoff_s: float = 2.0,
    ) -> AsyncIterator[PushedEvent]:
        """Events from now on (or from the positions of `state`), across reconnects, until `stop` or close.

        With a `name` they go on, where `state` has no positions, from what was acknowledged under it: an
        event is within a second of the next one being asked for. Raises Denied for a bad key and
        InvalidInput for a channel that does not exist; a gateway that is away is tried again without end,
        `backoff_s` doubling up to `longest_backoff_s`.
        """
        state = state or Listening()
        wait = backoff_s
        while not stop():
            followed = False
            try:
                async with self.stream() as stream:
                    subscribed = await stream.subscribe(
                        channel,
                        pipeline=pipeline,
                        entity=entity,
                        filter=filter,
                        name=name,
                        policy=policy,
                        since=list(state.positions.values()),
                    )
                    followed = True
                    state.positions.update(subscribed.positions)
                    state.gaps.extend(subscribed.gaps)
                    state.subscribed.set()
                    done = _Done(stream, name)
                    try:
                        async for event in stream:
                            wait = backoff_s
                            state.positions.update(event.positions)
                            state.dropped = sum(stream.dropped.values())
                            yield event
                            done.with_(event)
                            if stop():
                                return
                    finally:
                        await done.close()
            except Unavailable:
                pass  # tried again below
            except Denied:
                # a socket lasts as long as the token that opened it; the next one is opened with another
                if not followed or not isinstance(self._key, UserSession):
                    raise
            state.subscribed.clear()
            state.reconnects += 1
            await asyncio.sleep(wait)
            wait = min(longest_backoff_s, wait * 2)

    async def _get(self, path: str) -> dict[str, Any] | None:
        answer = await self._request("GET", path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise error_of(answer.status, _problem(answer))
        found: dict[str, Any] = msgspec.json.decode(answer.body)
        return found

    async def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        used = text_of(self._key)
        answer = await self._send(method, path, body, headers, used)
        if answer.status == 401 and isinstance(self._key, UserSession):
            problem = _problem(answer)
            if problem.get("code") == EXPIRED:
                await self._key.renew(used)
                answer = await self._send(method, path, body, headers, text_of(self._key))
        return answer

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, token: str
    ) -> _Answer:
        authorized = {**(headers or {}), "authorization": f"Bearer {token}"}
        try:
            async with self._session().request(
                method, self._url + path, data=body, headers=authorized
            ) as answer:
                timing = answer.headers.get("server-timing", "")
                return _Answer(answer.status, await answer.read(), timing)
        except aiohttp.InvalidURL as error:
            raise InvalidInput(f"no gateway address: {self._url}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the gateway does not answer: {error!r}", where=self._url) from error

    def _session(self) -> aiohttp.ClientSession:
        """Made at the first request: a session belongs to the event loop that it is made in."""
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http


def _problem(answer: _Answer) -> dict[str, Any]:
    try:
        return dict(msgspec.json.decode(answer.body))
    except (msgspec.DecodeError, TypeError, ValueError):
        return {"detail": f"the gateway answered {answer.status}", "code": "unknown"}


def _server_timing(header: str) -> dict[str, float]:
    """`validate;dur=0.1, publish;dur=2` as milliseconds by name."""
    found = {}
    for part in header.split(","):
        name, _, options = part.strip().partition(";dur=")
        if options:
            found[name] = float(options)
    return found


class _Done:
    """What the caller has dealt with, acknowledged a moment later."""

    def __init__(self, stream: Stream, name: str | None) -> None:
        self._stream = stream
        self._name = name
        self._positions: dict[str, str] = {}
        self._telling: asyncio.Task[None] | None = None

    def with_(self, event: PushedEvent) -> None:
        if self._name is None:
            return
        self._positions.update(event.positions)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._later())

    async def close(self) -> None:
        """Tell what is left."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
            await self._tell()

    async def _later(self) -> None:
        await asyncio.sleep(_ACKNOWLEDGE_S)
        await self._tell()

    async def _tell(self) -> None:
        positions, self._positions = self._positions, {}
        for position in positions.values():
            with suppress(Unavailable):  # it comes again after the reconnect, and is acknowledged then
                await self._stream.acknowledge(self._name or "", position)
