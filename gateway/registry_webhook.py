"""The registry's webhooks: a signed notice from MLflow becomes a word to the controller, which looks at once.

`POST /api/v1/registry/webhook`, in MLflow: `client.create_webhook(name, url, events, secret=...)` with the
secret of the setting `mlflow.webhook_secret`; without one the route answers 404. Who calls is proven by the
signature, not by a key. A notice says only where to look, so nothing of it is believed: the controller
compares the registry with what it knows. What is lost is found by its next look.
"""

from collections import OrderedDict
from datetime import timedelta

import redis.asyncio

from core.clock import Clock, to_millis
from core.errors import Conflict, Denied, MillstreamError, Unavailable
from core.ids import digest, new_id
from core.settings import Settings
from core.telemetry.log import logger
from gateway.audit.event import AuditEvent, AuditTrail, Outcome
from gateway.exchange import Request, Response
from gateway.problems import NotFound
from gateway.publisher import Outgoing, Publisher
from pipelines.on_redis.round_trips import RoundTrips
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import COMMANDS, ModelCommand
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.registry_webhook import DELIVERY, MAX_BYTES, OLDEST, read_webhook

PATH = "/api/v1/registry/webhook"
SENDER = "registry webhook"
KEY = "millstream:webhook:"
REMEMBERED = 2 * OLDEST + timedelta(minutes=1)
"""Longer than a timestamp is taken, from five minutes ahead to five minutes ago."""
_MOST = 10_000
_log = logger("gateway.registry_webhook")


class Deliveries:
    """The deliveries that were taken: in Redis for all gateways; while it is away, the newest 10,000 here."""

    def __init__(self, client: "redis.asyncio.Redis", clock: Clock) -> None:
        self._redis = RoundTrips(
            client, where="webhook deliveries", code="deliveries_unavailable", clock=clock
        )
        self._clock = clock
        self._here: OrderedDict[str, float] = OrderedDict()

    async def take(self, delivery: str) -> bool:
        """Whether this one is new; it is not any more."""
        key = KEY + digest(delivery.encode())
        now = self._clock.monotonic()
        if self._here.get(key, 0.0) > now:
            return False
        seconds = REMEMBERED.total_seconds()
        try:
            (was_set,) = await self._redis.ask([("SET", key, b"", "EX", int(seconds), "NX")])
        except Unavailable as error:
            _log.warning("deliveries are remembered here alone", reason=error.what)
            was_set = True
        if was_set:
            self._here[key] = now + seconds
            while len(self._here) > _MOST:
                self._here.popitem(last=False)
        return bool(was_set)

    async def give_back(self, delivery: str) -> None:
        """It was not carried out: when it comes again, it is new."""
        key = KEY + digest(delivery.encode())
        self._here.pop(key, None)
        try:
            await self._redis.ask([("DEL", key)])
        except Unavailable as error:
            _log.warning("a delivery stays taken; the next look finds what it was about", reason=error.what)


class RegistryWebhook:
    """The handler. Answers 204 once the word to the controller is on Kafka; 401 for a signature that is not
    ours or a timestamp more than five minutes away, 409 for a delivery that was taken before, 400 for a body
    that is no notice, 413, and 503 while Kafka takes nothing, on which MLflow sends again."""

    def __init__(
        self,
        secret: str | None,
        deliveries: Deliveries,
        publisher: Publisher,
        codec: RecordCodec[ModelCommand],
        clock: Clock,
        trail: AuditTrail | None = None,
    ) -> None:
        self._trail = trail
        self._secret, self._deliveries = secret, deliveries
        self._publisher, self._codec, self._clock = publisher, codec, clock

    async def post(self, request: Request) -> Response:
        if self._secret is None:
            raise NotFound(
                "no webhooks are taken here",
                mend="set MILLSTREAM_MLFLOW__WEBHOOK_SECRET, here and in MLflow",
                code="webhook_without_secret",
            )
        body = await request.body(MAX_BYTES)
        try:
            notice = read_webhook(request.headers, body, secret=self._secret, now=self._clock.now())
        except Denied as error:
            if self._trail is not None:
                self._trail.note(self._event(request, "denied", reason=error.code))
            raise
        delivery = request.headers[DELIVERY]
        if not await self._deliveries.take(delivery):
            raise Conflict("this delivery was taken before", code="webhook_replayed")
        if notice is not None:
            try:
                if self._trail is not None:
                    await self._trail.written(self._event(request, "allowed", target=notice.name))
                await self._tell(notice.name)
            except MillstreamError:
                await self._deliveries.give_back(delivery)
                raise
            _log.info("the registry has news", model=notice.name, entity=notice.entity, action=notice.action)
        return Response(204)

    def _event(self, request: Request, outcome: Outcome, *, reason: str = "", target: str = "") -> AuditEvent:
        return AuditEvent(
            tenant="",
            actor=SENDER if outcome == "allowed" else "",
            action=f"POST {PATH}",
            outcome=outcome,
            at=self._clock.now(),
            target=target,
            reason=reason,
            request_id=request.request_id,
            detail={"address": request.address},
        )

    async def _tell(self, model: str) -> None:
        """Raises Unavailable when it is not on Kafka."""
        now = self._clock.now()
        command = ModelCommand(
            tenant=SYSTEM_TENANT, id=new_id(), model=model, kind="look", sender=SENDER, sent_at=now
        )
        headers = event_headers(
            id=command.id,
            source=SENDER,
            type=ModelCommand.spec().full_name,
            time=now,
            tenant=command.tenant,
            received_at=now,
        )
        key, value = key_of(command.tenant, command.model), self._codec.encode(command)
        outgoing = Outgoing(COMMANDS.name, key, value, headers, to_millis(now))
        (problem,) = await self._publisher.publish([outgoing])
        if problem is not None:
            raise problem


def registry_webhook(
    settings: Settings,
    client: "redis.asyncio.Redis",
    publisher: Publisher,
    registry: SchemaRegistry,
    clock: Clock,
    trail: AuditTrail | None = None,
) -> RegistryWebhook:
    """The handler of a gateway with these settings."""
    codec = RecordCodec(ModelCommand, registry, COMMANDS.subject, max_bytes=COMMANDS.max_bytes)
    secret = settings.mlflow.webhook_secret
    return RegistryWebhook(secret, Deliveries(client, clock), publisher, codec, clock, trail)
