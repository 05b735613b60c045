"""Submitting the Flink job of a stream: compile the plan (cached), execute it, from a restore point or anew.

A short-lived JVM does it, one run to compile (once per script) and one to execute; none stays. State
outlives a submission by the job's lineage: the disorder bound, addresses and settings may change between two
submissions, the operators and their state do not.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from core.errors import DeclarationError, StackError
from core.ids import canonical_json, digest
from core.settings import Settings
from features.compile.flink import TOPOLOGY, Connection, FlinkStream, Script
from features.compile.flink_windows import WindowedStream
from jobs.on_flink.java_parts import STATE_OPTIONS, SUBMIT, JavaParts, flink_home
from jobs.on_flink.restore_points import RestorePoint, StateFolders
from jobs.on_flink.stream import Replay, name_of

DEDUPE_HORIZON = timedelta(hours=24)
"""For how long the stream remembers an id. A repeat after that comes out again."""

_TIMEOUT_S = 180.0
_TABLE_SETTINGS = {
    "table.local-time-zone": "UTC",
    # What the views share is computed once: one dedupe instead of one for each reader of the first events.
    "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
    "table.exec.mini-batch.enabled": "false",
    # A quiet partition holds the clock; its ticks move it on. Idleness would let the others run ahead of
    # a partition that is merely slow to be read, and its rows would come out late.
    "table.exec.source.idle-timeout": "0 ms",
}


class Refused(StackError):
    """Flink did not take the job. `trace` is all that it said; the message has the causes only."""

    def __init__(self, what: str, *, job: str, trace: str) -> None:
        causes = [
            line.strip()[:300] for line in trace.splitlines() if line.startswith(("Caused by", "Exception"))
        ]
        super().__init__(
            what,
            where=f"job {job}: {' | '.join(causes[-5:]) or trace[-1000:]}",
            mend="`millstream plan` shows the SQL, the JobManager's log the rest",
        )
        self.trace = trace


@dataclass(frozen=True)
class FlinkJob:
    """A stream as one job: what it computes, where it runs, how much disorder it takes just now."""

    stream: FlinkStream
    settings: Settings
    java: JavaParts
    disorder: timedelta | None = None
    replay: Replay | None = None

    @property
    def name(self) -> str:
        """The name that the job and its state go by."""
        return name_of(self.stream, self.replay)

    @property
    def folders(self) -> StateFolders:
        return StateFolders.of(self.settings, self.name)

    @property
    def script(self) -> Script:
        given = self.settings
        connection = Connection(
            given.kafka.address, given.registry.address, java_security(given.kafka.security)
        )
        since = None if self.replay is None else self.replay.since
        return self.stream.compile(connection, disorder=self.disorder, since=since)

    @property
    def mode(self) -> dict[str, str]:
        """Settings that the compiled plan depends on, besides those of every job."""
        return {}

    def bounded(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The compiled plan with a bound on its state."""
        return with_state_ttl(plan)

    def plan(self) -> Path:
        """The compiled plan, from the data folder or compiled now (a few seconds)."""
        script, jar = self.script, self.java.jar(self.settings.cache)
        made_of = {
            "script": script.text,
            "jar": jar.name,
            "flink": [path.name for path in self.java.flink],
            "horizon": str(DEDUPE_HORIZON),
            "settings": _TABLE_SETTINGS | self.mode,
            "topology": TOPOLOGY,
        }
        folder = self.settings.root / "flink" / self.stream.pipeline
        target = folder / f"{digest(canonical_json(made_of))[:32]}.json"
        if target.exists():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".compiling-") as staging:
            made = Path(staging) / "plan.json"
            self._run(Path(staging), "compile", self.mode, script, script.statement_set, made)
            made.write_text(json.dumps(self.bounded(json.loads(made.read_text())), indent=1))
            made.replace(target)
        return target

    def submit(self, restore_from: RestorePoint | None) -> str:
        """Execute the plan; returns Flink's id of the job, which need not run yet.

        Raises Refused when the job was not taken; a restore point that does not load shows here already.
        """
        plan = self.plan()
        with tempfile.TemporaryDirectory(prefix="millstream-submit-") as staging:
            out = self._run(
                Path(staging), "execute", self.configuration(restore_from), self.script, None, plan
            )
        found = re.search(r"^job ([0-9a-f]{32})$", out, re.MULTILINE)
        if found is None:
            raise StackError("Flink named no job", where=f"submission of {self.name}: {out[-500:]}")
        return found.group(1)

    def configuration(self, restore_from: RestorePoint | None) -> dict[str, str]:
        """The job's own settings; what is not here is the cluster's."""
        flink = self.settings.flink
        address = urlparse(flink.address)
        jars = [self.java.jar(self.settings.cache), *self.java.connectors]
        conf = {
            **_TABLE_SETTINGS,
            "execution.target": "remote",
            "execution.attached": "false",
            "rest.address": address.hostname or "",
            "rest.port": str(address.port or (443 if address.scheme == "https" else 80)),
            "security.ssl.rest.enabled": str(address.scheme == "https").lower(),
            "pipeline.name": self.name,
            "pipeline.jars": ";".join(jar.as_uri() for jar in jars),
            "pipeline.max-parallelism": "128",
            "pipeline.object-reuse": "true",
            "pipeline.auto-watermark-interval": "20 ms",
            **_pace(self.stream),
            "parallelism.default": str(flink.parallelism),
            "state.backend.type": "rocksdb",
            # Some fifty column families, most of them small, share one memory. At its first row each takes an
            # arena block, 1 MB with the default write buffer: their sum passed what a slot's share leaves to
            # write buffers (28 MB), and every write flushed something, a third of the TaskManager's CPU at
            # 200 events/s. `StateOptions` keeps blocks small, and the memory is the TaskManager's.
            # Small buffers also keep seeks short: what a join, a pattern or a window has done with is deleted
            # and a seek walks over every such mark that was not flushed and compacted away: thousands of
            # them with 2 MB. Every checkpoint flushes all families, hence the compaction. Timers are few (one
            # per row in flight), they fit the heap.
            "state.backend.rocksdb.memory.managed": "false",
            "state.backend.rocksdb.timer-service.factory": "HEAP",
            "state.backend.rocksdb.use-bloom-filter": "true",
            "state.backend.rocksdb.options-factory": STATE_OPTIONS,
            "state.backend.rocksdb.compaction.style": "UNIVERSAL",
            "state.backend.rocksdb.compression.per.level": "NO_COMPRESSION",
            "execution.checkpointing.interval": f"{round(flink.checkpoint_interval_s * 1000)} ms",
            "execution.checkpointing.mode": "EXACTLY_ONCE",
            "execution.checkpointing.incremental": "true",
            "execution.checkpointing.num-retained": "3",
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "execution.checkpointing.dir": self.folders.checkpoints.as_uri(),
            "execution.checkpointing.savepoint-dir": self.folders.savepoints.as_uri(),
        }
        if restore_from is not None:
            conf["execution.state-recovery.path"] = restore_from.path.as_uri()
            # Flink deletes what it resumed from once newer checkpoints replace it, so that none pile up.
            conf["execution.state-recovery.claim-mode"] = "CLAIM"
        return conf

    def _run(
        self,
        staging: Path,
        verb: str,
        conf: Mapping[str, str],
        script: Script,
        statements: str | None,
        plan: Path,
    ) -> str:
        given = [_written(staging / "conf.properties", properties(_TABLE_SETTINGS | dict(conf)))]
        given.append(_written(staging / "tables.sql", "\0".join(script.tables)))
        if statements is not None:
            given.append(_written(staging / "set.sql", statements))
        jars = [self.java.jar(self.settings.cache), *self.java.class_path]
        command = [
            str(self.java.java),
            *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Xshare:auto"),
            *_module_options(),
            *("-cp", ":".join(str(jar) for jar in jars), SUBMIT, verb),
            *(str(path) for path in (*given, plan)),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=staging
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{verb} took over {_TIMEOUT_S:g} s", where=f"job {self.name}") from error
        if done.returncode != 0:
            raise Refused(f"Flink refuses to {verb} the job", job=self.name, trace=done.stderr.strip())
        return done.stdout


def _pace(stream: FlinkStream) -> dict[str, str]:
    """How long a stage gathers rows, and how much of each state it gathers in memory.

    Each row of a rolling view is waited for; those of windows come once a window, and their job has few
    states, of which one is large: the ids. Measured on one tumbling view, CPU an event: 28 us handed on at
    once, 23 us at 50 ms. RocksDB alone, for 800,000 ids, flushed each 300,000: 4.4 us an id with buffers of
    2 MB; with the filters of `StateOptions` 3.6 us with 8 MB and 3.0 us with 16 MB.
    """
    if isinstance(stream, WindowedStream):
        return {
            "execution.buffer-timeout.interval": "50 ms",
            "state.backend.rocksdb.writebuffer.size": "16 mb",
        }
    return {"execution.buffer-timeout.interval": "0 ms", "state.backend.rocksdb.writebuffer.size": "256 kb"}


def with_state_ttl(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with the dedupe's horizon; windows, joins and patterns drop their state by event time.

    Raises DeclarationError when no dedupe has a state to bound: then the plan is not what we think.
    """
    bounded = 0
    for node in plan.get("nodes", []):
        if str(node.get("type", "")).startswith("stream-exec-deduplicate"):
            for state in node.get("state", []):
                state["ttl"] = f"{DEDUPE_HORIZON // timedelta(milliseconds=1)} ms"
                bounded += 1
    if not bounded:
        raise DeclarationError("the compiled plan has no dedupe", mend="check the Flink version")
    return plan


def properties(values: Mapping[str, str]) -> str:
    """The text of a Java properties file."""

    def escaped(part: str) -> str:
        return re.sub(r"([\\=:#! ])", r"\\\1", part).replace("\n", "\\n")

    return "".join(f"{escaped(name)}={escaped(value)}\n" for name, value in sorted(values.items()))


def java_security(librdkafka: Mapping[str, str]) -> dict[str, str]:
    """TLS and SASL settings of librdkafka in the names of the Java client, for what both share.

    Raises DeclarationError for one that has no counterpart here.
    """
    out: dict[str, str] = {}
    plain = {
        "security.protocol": "security.protocol",
        "sasl.mechanism": "sasl.mechanism",
        "sasl.mechanisms": "sasl.mechanism",
        "ssl.endpoint.identification.algorithm": "ssl.endpoint.identification.algorithm",
    }
    login = {"sasl.username", "sasl.password"}
    for name, value in librdkafka.items():
        if name in plain:
            out[plain[name]] = value
        elif name == "ssl.ca.location":
            out |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": value}
        elif name not in login:
            raise DeclarationError(
                f"Kafka setting {name!r} has no counterpart in Flink's client",
                where="setting kafka.security",
                mend=f"use {', '.join(sorted({*plain, 'ssl.ca.location', *login}))}",
            )
    if login & set(librdkafka):
        module = (
            "org.apache.kafka.common.security.plain.PlainLoginModule"
            if out.get("sasl.mechanism", "PLAIN") == "PLAIN"
            else "org.apache.kafka.common.security.scram.ScramLoginModule"
        )
        user, password = (
            librdkafka.get(name, "").replace("\\", "\\\\").replace('"', '\\"')
            for name in ("sasl.username", "sasl.password")
        )
        out["sasl.jaas.config"] = f'{module} required username="{user}" password="{password}";'
    return out


def _written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def _module_options() -> list[str]:
    """The modules that Flink's own configuration opens, less those that this Java does not have."""
    text = (flink_home() / "conf" / "config.yaml").read_text()
    return [
        option for option in re.findall(r"--add-(?:exports|opens)=\S+", text) if "jdk.compiler" not in option
    ]
