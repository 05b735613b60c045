"""The echo worker of the gateway's benchmark: `python -m bench.gateway_echo PIPELINE`.

The least that can answer: it reads what is asked, and answers each with its own body. It keeps no outcomes
and commits nothing, so that what is measured is what is around it; the same one answers both gateways.
"""

import sys
import threading
from signal import SIGINT, SIGTERM, signal
from typing import Any

from confluent_kafka import TopicPartition

from core.clock import SystemClock
from core.settings import settings
from core.telemetry.probe import Probe, ProbeServer
from pipelines.asking.addresses import address_of
from pipelines.load import load_scoring
from schemas import broker
from schemas.catalog.asking import REPLIES, Ask, Reply
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry

MOST, IDLE_S = 500, 0.1


def main(pipeline: str) -> None:
    """Until SIGTERM."""
    stop = threading.Event()
    for number in (SIGTERM, SIGINT):
        signal(number, lambda *_: stop.set())
    given, plan, clock = settings(), load_scoring(pipeline), SystemClock()
    registry = SchemaRegistry.of(given)
    asks: RecordCodec[Ask] = RecordCodec(Ask, registry, plan.requests.subject)
    answers: RecordCodec[Reply] = RecordCodec(Reply, registry, REPLIES.subject)
    producer = broker.asking_producer(given)
    reader = broker.consumer(given, None)
    places = [TopicPartition(plan.requests.name, number) for number in range(plan.requests.partitions)]
    for place in places:
        place.offset = broker.watermarks(reader, place, 30)[1]
    reader.assign(places)
    probe = Probe()
    server = ProbeServer(probe).start()
    probe.set_ready(True)
    while not stop.is_set():
        messages = reader.consume(1, timeout=IDLE_S)
        if messages:
            messages += reader.consume(MOST, timeout=0)
        for message in messages:
            address = address_of(message.headers(), REPLIES.name)
            ask = asks.decode(message.value())
            if address is None or ask.kind != "ask":
                continue
            reply = Reply(
                tenant=ask.tenant, id=ask.id, pipeline=pipeline, replied_at=clock.now(), attempt="1",
                last=True, state="answered", status=200, body=ask.body,
            )  # fmt: skip
            headers: list[Any] = [("correlation_id", address.correlation_id.encode())]
            partition = -1 if address.partition is None else address.partition
            producer.produce(REPLIES.name, answers.encode(reply), headers=headers, partition=partition)
        producer.poll(0)
        probe.beat("loop")
    producer.flush(5)
    reader.close()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
