"""Features by HTTP: of one entity and view, and of many entities and several views.

`GET /api/v1/features/{view}/{entity}`, a composite entity written as `schemas.keys.entity_of` does, and
`POST /api/v1/features/read`:

    {"features": ["card_activity:count_1h"], "entities": ["1-2-3", {"card_id": "1-2-4"}]}

with a `service` instead of `features`, up to 1,000 entities, and `as_of`, a recent time, if all the views are
rolling.

Each feature is answered with value, event_time, age_ms and status. An entity that was never seen is no
error: its features have their empty values and status `missing`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from core.errors import Rejected, TooLarge
from core.telemetry.metrics import counter, histogram
from features.online.reading import AsyncFeatureReading, FeatureReads
from features.online.selection import Entity, Selection, entity_fields
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.exchange import Request, Response, json_response
from gateway.problems import UnsupportedMediaType
from schemas.keys import split_entity

MOST_ENTITIES = 1_000
MOST_FEATURES = 256
MOST_VALUES = 50_000
_MAX_BODY = 256 * 1024
_ON_THE_LOOP = 2_000
_BODY = ("service", "features", "entities", "as_of")
_decode = msgspec.json.Decoder().decode
_DAY_MS = 86_400_000
_READS = counter("gateway_feature_reads_total", "Entities read, by whether one was there", ["view", "found"])
_AGE_MS = histogram(
    "gateway_feature_age_ms",
    "Age of the oldest entity of a read",
    ["view"],
    (100, 1_000, 10_000, 60_000, 300_000, 3_600_000, 6 * 3_600_000, _DAY_MS, 7 * _DAY_MS, 30 * _DAY_MS),
)


class FeaturesEndpoint:
    """The handlers of both routes."""

    def __init__(self, reading: AsyncFeatureReading) -> None:
        self._reading = reading

    async def get(self, request: Request) -> Response:
        view = self._reading.readable.view(request.parameters["view"])
        entity = request.parameters["entity"]
        fields = entity_fields(((view, ()),))
        try:
            values = split_entity(entity, len(fields))
        except ValueError:
            raise Rejected(
                f"no entity of {', '.join(fields)}",
                fields={"": f"must be {len(fields)} values joined by |"},
                where=view.where,
                mend="write % and | inside a value as %25 and %7C",
                code="invalid_request",
            ) from None
        asked: Entity = entity if len(fields) == 1 else dict(zip(fields, values, strict=True))
        reads = await self._reading.read(request.principal.tenant, ((view, view.feature_names),), [asked])
        _count(reads)
        (row,) = reads.rows()
        features = {label.partition(":")[2]: value for label, value in row.features.items()}
        return json_response(
            200, {"view": view.name, "entity": entity, "as_of": reads.at, "features": features}
        )

    async def read(self, request: Request) -> Response:
        if content_type(request) != JSON:
            raise UnsupportedMediaType("one read at a time", mend=f"send {JSON}")
        body = _body(await request.body(_MAX_BODY))
        selection = self._selection(body)
        entities = body["entities"]
        asked = len(entities) * sum(len(names) for _, names in selection)
        if asked > MOST_VALUES:
            raise TooLarge(
                f"{asked} values in one request",
                code="too_many_values",
                mend=f"ask for at most {MOST_VALUES}: entities times features",
            )
        reads = await self._reading.read(request.principal.tenant, selection, entities, at=body.get("as_of"))

        def answer() -> Response:
            _count(reads)
            return json_response(200, {"as_of": reads.at, "entities": reads.rows()})

        return await asyncio.to_thread(answer) if asked > _ON_THE_LOOP else answer()

    def _selection(self, body: Mapping[str, Any]) -> Selection:
        readable = self._reading.readable
        if "service" in body:
            return readable.service(body["service"])
        return readable.features(body["features"])


def _count(reads: FeatureReads) -> None:
    for (view, _), found in zip(reads.selection, reads.reads, strict=True):
        ages = [read.age_ms for read in found if read.age_ms is not None]
        if ages:
            _READS.labels(view.name, "yes").inc(len(ages))
            _AGE_MS.labels(view.name).observe(max(ages))
        if len(ages) < len(found):
            _READS.labels(view.name, "no").inc(len(found) - len(ages))


def _body(raw: bytes) -> dict[str, Any]:
    """The body with its values checked, all but what is in the entities; `as_of` is a time. Raises Malformed,
    Rejected with every wrong part, TooLarge."""
    body = _decode(raw) if strict_json.is_plainly_strict(raw) else strict_json.parse(raw)
    if not isinstance(body, dict):
        raise Rejected("no valid read", fields={"": "must be an object"}, code="invalid_request")
    given: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
    problems = {f"/{name[:100]}": "unknown field" for name in list(given)[:100] if name not in _BODY}
    if ("service" in given) == ("features" in given):
        problems[""] = "needs either service or features"
    if not isinstance(given.get("service", ""), str):
        problems["/service"] = "must be a string"
    _check_list(given, "entities", (str, dict), MOST_ENTITIES, problems)
    if "features" in given:
        _check_list(given, "features", (str,), MOST_FEATURES, problems)
    if "as_of" in given:
        try:
            given["as_of"] = msgspec.convert(given["as_of"], datetime)
        except msgspec.ValidationError:
            problems["/as_of"] = "must be a time as in RFC 3339"
    if problems:
        raise Rejected("no valid read", fields=problems, code="invalid_request")
    return given


def _check_list(
    body: Mapping[str, Any], name: str, kinds: tuple[type, ...], most: int, problems: dict[str, str]
) -> None:
    """A list of 1 to `most` values of these types; raises TooLarge above."""
    values: Sequence[Any] | Any = body.get(name)
    if not isinstance(values, list) or not values:
        problems[f"/{name}"] = f"must be a list of 1 to {most}"
        return
    if len(values) > most:
        raise TooLarge(
            f"{len(values)} {name} in one request", code=f"too_many_{name}", mend=f"at most {most}"
        )
    wrong = [at for at, value in enumerate(values) if not isinstance(value, kinds)]
    expected = "must be a string" if kinds == (str,) else "must be a string or an object"
    problems |= {f"/{name}/{at}": expected for at in wrong[:100]}
