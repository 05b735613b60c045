"""The codes of problems: what each means, and which the door answers with, whatever the route.

A test holds this against every code that the gateway's sources name.
"""

from collections.abc import Mapping
from typing import Any

from gateway.documents.operations import Codes
from gateway.documents.schemas import Schema
from gateway.principals import OPEN, PROBE
from gateway.routing import Route

CODES: Mapping[str, str] = {
    "already_reviewed": "The review was decided otherwise before; a verdict is final.",
    "audit_unavailable": "The audit trail cannot be kept now, and nothing is changed without it.",
    "cancelled": "The request was cancelled, by whoever asked it first.",
    "challenge_over": "The challenge was answered, is too old, or is none; log in again.",
    "channel_starting": "The channel is not being read yet.",
    "circuit_open": "What answers this failed too often and is left alone for some seconds.",
    "conflict": "The same id was sent before with other content.",
    "connect_first": "The first frame is not `connect`.",
    "connected_already": "A second `connect` on one socket.",
    "database_unavailable": "PostgreSQL is away.",
    "deadline_exceeded": "No answer in time. What was asked for may still be done.",
    "duplicate_key": "A key stands twice in one JSON object.",
    "forbidden": "The credential is good; the permission that is named is missing.",
    "frame_too_large": "A frame of more bytes than are taken.",
    "head_too_large": "The fields of the request's head are too large together.",
    "internal_error": "A bug of ours; the request id leads to it in the log.",
    "invalid_channel": "A part of the channel is missing.",
    "invalid_conversation": "What the conversation is called is no id.",
    "invalid_filter": "The filter names a field or a value that cannot be compared.",
    "invalid_id": "The call has no id, or one that is too long.",
    "invalid_input": "What was asked for makes no sense; `detail` says why.",
    "invalid_key": "The Idempotency-Key is no id.",
    "invalid_name": "The name of the subscription is no id.",
    "invalid_option": "An option of the query, or a preference, has a value that makes no sense.",
    "invalid_position": "The position was not given to this tenant, for this channel.",
    "invalid_record": "Fields of the body are wrong; `errors` names every one.",
    "invalid_request": "The body breaks its shape; `errors` or `detail` say where.",
    "invalid_training": "The training is not configured as it should be; `errors` names every place.",
    "kafka_unavailable": "Kafka takes nothing now.",
    "keys_unavailable": "Credentials cannot be checked now.",
    "length_required": "The body does not say how long it is.",
    "load_refused": "The version is not loaded; `detail` says why.",
    "login_failed": "User or password is wrong.",
    "malformed_body": "The body is no strict JSON in UTF-8, or ended early.",
    "malformed_frame": "The frame is none of the protocol's.",
    "malformed_request": "What came is no HTTP, or could be read in two ways.",
    "method_not_allowed": "The path exists, the method does not; see `Allow`.",
    "model_failed": "The model gave nothing for this input.",
    "model_in_use": "The version serves, or is being brought into service.",
    "model_unavailable": "The model does not work now.",
    "no_earlier_answer": "No model answers, and the question was not answered before.",
    "no_events": "There are no events in the body.",
    "no_host": "No host is named.",
    "no_second_factor_offered": "There is nothing to confirm; ask for a second factor first.",
    "no_server": "No server of the model is left.",
    "not_cached": "No answer is kept, and only one that is was wanted.",
    "not_ended": "The training has not ended.",
    "not_found": "Nothing there. What is another tenant's looks the same.",
    "not_scored": "The model cannot score this record.",
    "over_burst": "More at once than the limit could ever let through.",
    "overloaded": "More requests at once than can be handled in time.",
    "paid_without_answer": "The call may have been paid for, and has no answer; it is not made twice.",
    "positions_unavailable": "Stored positions cannot be read or moved now.",
    "queue_full": "Too much is waiting already.",
    "rate_limited": "More than the caller may ask for in so short a time.",
    "redis_unavailable": "The online store is away.",
    "refresh_refused": "The refresh token is none, was used, or its session is over; log in again.",
    "registry_unavailable": "The schema registry is away.",
    "remove_refused": "The version is not removed; `detail` says why.",
    "repeated_field": "A field of the head that may come once comes more often.",
    "replies_unavailable": "Answers are not being read yet.",
    "rollback_refused": "There is nothing to roll back to.",
    "schema_not_registered": "A schema is not registered yet.",
    "second_factor_paused": "Too many wrong codes of the second factor; see `Retry-After`.",
    "second_factor_there": "The user has a second factor already.",
    "sessions_unavailable": "Redis is away, where sessions are; tokens that are held go on.",
    "slow_body": "The body was not there in time.",
    "stale_revision": "The routing changed since it was read; read it again, then decide.",
    "subscribed_already": "The socket has this channel, or this name, already.",
    "swap_failed": "The swap was begun and did not come to its end; what served before serves.",
    "swap_refused": "The swap is not made; `detail` says why.",
    "swap_unsafe": "The swap is not safe now; `checks` says why.",
    "target_too_long": "The path and query are too long together.",
    "too_deep": "JSON is nested deeper than is taken.",
    "too_large": "The body, or an event, has more bytes than are taken.",
    "too_many_entities": "More entities in one request than are taken.",
    "too_many_events": "More events in one request than are taken.",
    "too_many_features": "More features in one request than are taken.",
    "too_many_positions": "More positions than are taken.",
    "too_many_subscriptions": "More subscriptions on one socket than are taken.",
    "too_many_values": "Entities times features are more than are taken.",
    "training_unavailable": "How trainings stand is not read yet.",
    "unauthenticated": "No credential, or none that is valid.",
    "unavailable": "Something is away; `detail` says what.",
    "unknown_channel": "There is no such channel.",
    "unknown_feature": "The view has no such feature.",
    "unknown_model": "There is no such model.",
    "unknown_model_version": "The model has no such version.",
    "unknown_pipeline": "There is no such pipeline, or it does not take this.",
    "unknown_service": "There is no such feature service.",
    "unknown_subscription": "The socket has no subscription of this name.",
    "unknown_training": "No training of this model is configured.",
    "unknown_view": "There is no such view.",
    "unsupported_media_type": "The body is of a type, or in an encoding, that is not taken.",
    "token_expired": "The access token was good and has expired; refresh it and send the request again.",
    "webhook_replayed": "The delivery was taken before.",
    "webhook_without_secret": "No webhooks are taken here.",
    "wrong_code": "The code of the second factor is wrong, or was used.",
    "wrong_password": "The password, asked for once more, is wrong.",
}

SERVER_CODES = tuple(
    f"server_{kind}" for kind in ("unreachable", "busy", "refused", "failed", "lost", "silent", "garbage")
)
"""A model server did not do its part (`core.errors.ServerFailed`)."""

STRICT_JSON: Codes = {400: ("malformed_body", "too_deep", "duplicate_key")}
BODY: Codes = {408: ("slow_body",), 413: ("too_large",), 400: ("malformed_body",)}
JSON_BODY: Codes = {**BODY, 415: ("unsupported_media_type",)}
PUBLISHED: Codes = {503: ("kafka_unavailable", "queue_full")}


def of_door(route: Route) -> Codes:
    """What `gateway.head` and `gateway.admission` answer with, before the handler of a route."""
    found: dict[int, tuple[str, ...]] = {
        400: ("repeated_field", "no_host"),
        411: ("length_required",),
        414: ("target_too_long",),
        431: ("head_too_large",),
        500: ("internal_error",),
    }
    if "{" in route.template:
        found[404] = ("not_found",)
    if route.permission == PROBE:
        return found
    found[429] = ("rate_limited",)
    found[503] = ("overloaded", *(("circuit_open",) if route.guarded else ()))
    if route.permission not in OPEN:
        found[401] = ("unauthenticated", "token_expired")
        found[403] = ("forbidden",)
        found[503] += ("keys_unavailable",)
    if route.plane in ("control", "told"):
        found[503] += ("audit_unavailable",)
    return found


def coded(schema: Schema, status: int, codes: tuple[str, ...], *, relayed: bool) -> dict[str, Any]:
    """The schema of a problem with this status and one of these codes."""
    code: Schema = {"examples": list(codes)} if relayed else {"enum": list(codes)}
    properties: dict[str, Any] = {"status": {"const": status}, "code": code}
    return {"allOf": [schema, {"type": "object", "properties": properties}]}
