"""The peer of the gateway's benchmark, started: `bench.gateway_peer_service` in an environment of its own."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from bench.http_peers import free_port, process
from bench.own_services import Running
from bench.peers import peer_python
from core.settings import LOOPBACK, Settings
from pipelines.plan import ScoringPlan
from schemas.avro import schema_text
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

PEER = (
    "fastapi==0.165.0", "uvicorn[standard]==0.54.0", "aiokafka[lz4]==0.14.0",
    "redis[hiredis]==5.3.1", "fastavro==1.13.1",
)  # fmt: skip
PEER_VERSIONS = dict(re.sub(r"\[.*\]", "", one).split("==") for one in PEER)
KEY = "peer-key-of-the-benchmark"
TENANT = "peer"


@contextmanager
def peer_service(given: Settings, plan: ScoringPlan, *, remembers: bool = True) -> Iterator[Running]:
    """One uvicorn worker on the plan's topics, without an access log. remembers: it keeps the ids of events,
    so that a repeat with other content is refused."""
    python, port = peer_python("fastapi", PEER, of=given), free_port()
    registry = SchemaRegistry.of(given)

    def schema(topic: Topic) -> dict[str, object]:
        assert topic.record is not None
        text = schema_text(topic.record.spec())
        return {"text": text, "id": registry.id_of(topic.subject, text)}

    topics = {"event": plan.source, "ask": plan.requests, "reply": plan.replies, "status": plan.status}
    configuration = {
        "kafka": given.kafka.address,
        "redis": given.redis.address,
        "events": plan.source.name,
        "requests": plan.requests.name,
        "replies": plan.replies.name,
        "status": plan.status.name,
        "partitions": plan.status.partitions,
        "remembers": remembers,
        "schemas": {name: schema(topic) for name, topic in topics.items()},
    }
    with redis.Redis.from_url(given.redis.address) as client:
        client.set(f"key:{hashlib.sha256(KEY.encode()).hexdigest()}", TENANT)
    command = [str(python), "-m", "uvicorn", "gateway_peer_service:app", "--port", str(port)]
    command += ["--workers", "1", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    ready = f"http://{LOOPBACK}:{port}/livez"
    env = {"PEER": json.dumps(configuration), "PYTHONPATH": ""}
    with process(command, env, Path(__file__).parent, ready) as pid:
        yield Running(port, pid)
