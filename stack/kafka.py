"""Kafka in KRaft mode: broker and controller in one JVM."""

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

from core.errors import StackError
from core.settings import LOOPBACK
from stack.artifacts import ROOTS, ArtifactCache, Coordinate
from stack.service import Port, Progress, Service, java, local, write
from stack.unit import Probe, Unit

ARTIFACTS = ("kafka", "kafka-logging")
AVRO = "kafka-avro"
FORMAT_TIMEOUT_S = 60

# Internal topics are kept small: 50 partitions each (the default) cost start-up time and files on a laptop.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=67108864
log.retention.check.interval.ms=60000
num.network.threads=2
num.io.threads=4
background.threads=4
log.cleaner.dedupe.buffer.size=16777216
controlled.shutdown.enable=true
"""

LOG4J = """\
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "[%d] %p %m (%c)%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: STDOUT
    Logger:
      - name: kafka.server.KafkaRaftServer
        level: INFO
      - name: kafka.server.BrokerServer
        level: INFO
      - name: org.apache.kafka.common.utils.AppInfoParser
        level: INFO
"""

TOOLS_LOG4J = """\
Configuration:
  Appenders:
    Console:
      name: STDERR
      target: SYSTEM_ERR
      PatternLayout:
        pattern: "%p %m (%c)%n"
  Loggers:
    Root:
      level: ERROR
      AppenderRef:
        - ref: STDERR
"""


class Kafka(Service):
    """The broker of the local stack. Topics are never created by accident (`auto.create.topics.enable`)."""

    name = "kafka"

    @property
    def external(self) -> str | None:
        return self.settings.kafka.bootstrap

    @property
    def address(self) -> str:
        return self.settings.kafka.address

    def version(self) -> str:
        return f"Apache Kafka {Coordinate.parse(ROOTS['kafka'][0]).version}"

    def ports(self) -> tuple[Port, ...]:
        given = self.settings.kafka
        return (
            Port(given.port, "Kafka broker", "MILLSTREAM_KAFKA__PORT"),
            Port(given.controller_port, "Kafka controller", "MILLSTREAM_KAFKA__CONTROLLER_PORT"),
        )

    def fetch(self, progress: Progress) -> None:
        java()
        for artifacts in ARTIFACTS:
            self._cache().fetch(artifacts, lambda done, total: progress.transferred(self.name, done, total))

    def prepare(self) -> None:
        given = self.settings.kafka
        write(
            self._properties,
            SERVER_PROPERTIES.format(
                host=LOOPBACK,
                port=given.port,
                controller_port=given.controller_port,
                data=self.folder / "data",
            ),
        )
        write(self._log4j, LOG4J)
        if (self.folder / "data" / "meta.properties").exists():
            return
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._java("-Xmx128m", "kafka.tools.StorageTool")
        # as one word: an id may begin with a dash
        command += ["format", "--standalone", f"--cluster-id={cluster}", "-c", str(self._properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise StackError(
                f"Kafka's storage cannot be formatted: {(done.stderr or done.stdout).strip()[-500:]}",
                where=str(self.folder / "data"),
                mend="check disk space and permissions, or run `millstream down --wipe`",
            )

    def units(self) -> tuple[Unit, ...]:
        heap = self.settings.kafka.heap
        options = [
            f"-Xmx{heap}",
            "-Xms128m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
        ]
        options += ["-Djava.awt.headless=true", f"-Dlog4j2.configurationFile=file:{self._log4j}"]
        argv = [*self._java(*options, "kafka.Kafka"), str(self._properties)]
        probe = Probe("kafka", local(self.settings.kafka.port))
        return (self._unit(argv, health=probe, stage=0),)

    def reach(self) -> Probe:
        first = self.address.split(",")[0]
        return Probe("tcp" if self.external and self.settings.kafka.security else "kafka", first)

    def tool(self, main: str, arguments: Sequence[str], *, avro: bool = False) -> list[str]:
        """The command line of one of Kafka's own tools, by its class; with `avro` the registry's deserializer
        is there, fetched at its first use. Raises StackError where what it needs cannot be had."""
        artifacts = (*ARTIFACTS, AVRO) if avro else ARTIFACTS
        for name in artifacts:
            self._cache().fetch(name, lambda done, total: None)
        quiet = self.folder / "tools-log4j2.yaml"
        write(quiet, TOOLS_LOG4J)
        options = ("-Xmx256m", f"-Dlog4j2.configurationFile=file:{quiet}", main)
        return [*self._java(*options, artifacts=artifacts), *arguments]

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _log4j(self) -> Path:
        return self.folder / "log4j2.yaml"

    def _cache(self) -> ArtifactCache:
        return ArtifactCache(self.settings.cache)

    def _java(self, *options: str, artifacts: Sequence[str] = ARTIFACTS) -> list[str]:
        """Of a jar that is there in two versions the first counts: Kafka's own."""
        cache = self._cache()
        jars = dict.fromkeys(str(path) for name in artifacts for path in cache.verified(name))
        *flags, main = options
        return [str(java()), *flags, "-cp", os.pathsep.join(jars), main]
