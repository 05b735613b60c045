"""What is handed to Flink: the job's settings, the patched plan, the properties file."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import DeclarationError, InvalidInput
from core.settings import Flink, Settings
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.compile.flink_windows import WindowedStream
from features.feature_rows import features_topic, late_topic
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.restore_points import RestorePoint
from jobs.on_flink.stream import Replay, format_offsets, parse_offsets
from jobs.on_flink.submit import FlinkJob, java_security, properties, with_state_ttl
from schemas.topic import Topic
from tests.jobs.on_flink.payments import Names


class Parts(JavaParts):
    def jar(self, cache: Path) -> Path:
        return Path("/cache/ours.jar")


def job(tmp_path: Path, **more: Any) -> FlinkJob:
    parts = Parts(Path("java"), Path("ecj.jar"), (Path("/cache/kafka.jar"),))
    return FlinkJob(Names("unit").stream, Settings(home=tmp_path, flink=Flink(**more)), parts)


def test_the_job_goes_by_its_lineage_and_keeps_its_state_there(tmp_path: Path) -> None:
    made = job(tmp_path, checkpoint_interval_s=2.5, parallelism=3)
    assert made.name == f"unit-{made.stream.lineage[:12]}"
    conf = made.configuration(None)
    assert conf["pipeline.name"] == made.name
    assert conf["execution.checkpointing.interval"] == "2500 ms"
    assert conf["parallelism.default"] == "3"
    assert conf["state.backend.type"] == "rocksdb"
    assert conf["execution.checkpointing.dir"] == f"file://{tmp_path}/flink/checkpoints/{made.name}"
    assert conf["pipeline.jars"] == "file:///cache/ours.jar;file:///cache/kafka.jar"
    assert "execution.state-recovery.path" not in conf


def test_rows_that_are_waited_for_are_handed_on_at_once_and_windows_gathered(tmp_path: Path) -> None:
    gathers = "execution.buffer-timeout.interval", "state.backend.rocksdb.writebuffer.size"
    rolling = job(tmp_path)
    windowed = replace(rolling, stream=windowed_stream())
    assert [rolling.configuration(None)[name] for name in gathers] == ["0 ms", "256 kb"]
    assert [windowed.configuration(None)[name] for name in gathers] == ["50 ms", "16 mb"]


def windowed_stream() -> WindowedStream:
    view = REGIONAL_DEMAND
    kept: Any = {"partitions": 1, "retention": timedelta(days=1)}
    source = Topic("unit.demand.events.v1", view.source, **kept)
    rows, late = features_topic("unit", view, **kept), late_topic("unit", view, **kept)
    return WindowedStream("unit", source, view, rows, late)


def test_a_restore_point_is_claimed(tmp_path: Path) -> None:
    conf = job(tmp_path).configuration(RestorePoint(Path("/state/chk-7"), 0.0))
    assert conf["execution.state-recovery.path"] == "file:///state/chk-7"
    assert conf["execution.state-recovery.claim-mode"] == "CLAIM"


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://flink:8081", "flink", "8081", "false"),
        ("https://flink.example", "flink.example", "443", "true"),
    ],
)
def test_an_external_cluster_by_its_address(tmp_path: Path, url: str, host: str, port: str, tls: str) -> None:
    conf = job(tmp_path, url=url).configuration(None)
    assert (conf["rest.address"], conf["rest.port"], conf["security.ssl.rest.enabled"]) == (host, port, tls)


def test_the_dedupe_forgets_after_a_day_and_nothing_else_is_touched() -> None:
    plan: dict[str, Any] = {
        "nodes": [
            {"type": "stream-exec-deduplicate_1", "state": [{"ttl": "0 ms", "name": "d"}]},
            {"type": "stream-exec-join_1", "state": [{"ttl": "0 ms", "name": "left"}]},
        ]
    }
    patched: Any = with_state_ttl(plan)
    assert patched["nodes"][0]["state"][0]["ttl"] == "86400000 ms"
    assert patched["nodes"][1]["state"][0]["ttl"] == "0 ms"
    with pytest.raises(DeclarationError):
        with_state_ttl({"nodes": plan["nodes"][1:]})


def test_properties_are_escaped() -> None:
    assert properties({"a b": "c=d", "x": "C:\\y # z\n"}) == "a\\ b=c\\=d\nx=C\\:\\\\y\\ \\#\\ z\\n\n"


def test_kafka_security_in_the_words_of_the_java_client() -> None:
    given = {
        "security.protocol": "SASL_SSL", "sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": "me",
        "sasl.password": 'a"b', "ssl.ca.location": "/ca.pem",
    }  # fmt: skip
    assert java_security(given) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": "/ca.pem",
        "sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="me" password="a\\"b";',
    }
    assert java_security({}) == {}
    with pytest.raises(DeclarationError, match=r"ssl\.key\.location"):
        java_security({"ssl.key.location": "x"})


def test_only_the_disorder_bound_differs_between_two_deployments_of_one_lineage(tmp_path: Path) -> None:
    normal = job(tmp_path)
    scaled = FlinkJob(normal.stream, normal.settings, normal.java, timedelta(seconds=250))
    assert scaled.name == normal.name
    differing = [(a, b) for a, b in zip(normal.script.tables, scaled.script.tables, strict=True) if a != b]
    ((events, also_events),) = differing
    assert "WATERMARK" in events
    assert "'late.disorder-ms' = '250000'" in also_events
    assert normal.script.statement_set == scaled.script.statement_set


def test_a_replay_has_a_state_of_its_own_and_begins_where_it_is_told(tmp_path: Path) -> None:
    live = job(tmp_path)
    first = FlinkJob(live.stream, live.settings, live.java, replay=Replay("first", {1: 40, 0: 12}))
    again = FlinkJob(live.stream, live.settings, live.java, replay=Replay("first", {0: 12, 1: 40}))
    second = FlinkJob(live.stream, live.settings, live.java, replay=Replay("second", {0: 12, 1: 40}))
    assert len({live.name, first.name, second.name}) == 3
    assert first.name == again.name
    assert all(made.name.rpartition("-")[0] == "unit" for made in (first, second)), (
        "as the keeper looks for it"
    )
    assert first.folders != live.folders
    assert "'scan.startup.mode' = 'earliest-offset'" in live.script.text
    assert "'partition:0,offset:12;partition:1,offset:40'" in first.script.text
    assert first.script == again.script


def test_offsets_are_read_as_they_are_written() -> None:
    since = {1: 40, 0: 12}
    assert format_offsets(since) == "0:12,1:40"
    assert parse_offsets(format_offsets(since)) == since
    for nonsense in ("", "1", "1:", ":1", "a:b", "1:2,", "1:-2"):
        with pytest.raises(InvalidInput, match="no offsets"):
            parse_offsets(nonsense)
