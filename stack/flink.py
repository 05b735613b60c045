"""Flink: a session cluster from the apache-flink wheel, JobManager and TaskManager each a process of its own.

The processes are started as plain `java` commands. The wheel's scripts would do the same after starting a
second JVM each, only to work out the memory settings; here `Memory` divides the process size, and the test
suite holds it against Flink's own rules.
"""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from core.errors import StackError
from core.settings import LOOPBACK
from stack.artifacts import ArtifactCache
from stack.service import (
    SERIAL_COLLECTOR,
    SMALL_JVM,
    Port,
    Progress,
    Service,
    java,
    need_package,
    package_version,
    render,
)
from stack.unit import Probe, Unit

JOBMANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASKMANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


@dataclass(frozen=True)
class Memory:
    """How the two process sizes (MiB) are divided. Sums are exact: Flink refuses anything else."""

    jobmanager_mb: int
    taskmanager_mb: int

    JM_METASPACE = 192
    JM_OFF_HEAP = 64
    JM_OVERHEAD = 72
    TM_METASPACE = 192
    TM_OVERHEAD = 104
    TM_FRAMEWORK = 64  # once on the heap, once off it
    TM_NETWORK = 64

    @property
    def jobmanager_heap(self) -> int:
        return self.jobmanager_mb - self.JM_METASPACE - self.JM_OFF_HEAP - self.JM_OVERHEAD

    @property
    def managed(self) -> int:
        """For RocksDB: a quarter of what is left for Flink. Narrow rows need less than Flink's usual 40 %."""
        return (self.taskmanager_mb - self.TM_METASPACE - self.TM_OVERHEAD) // 4

    @property
    def task_heap(self) -> int:
        fixed = self.TM_METASPACE + self.TM_OVERHEAD + 2 * self.TM_FRAMEWORK + self.TM_NETWORK
        return self.taskmanager_mb - fixed - self.managed

    def settings(self) -> dict[str, str]:
        sizes = {
            "jobmanager.memory.heap.size": self.jobmanager_heap,
            "jobmanager.memory.off-heap.size": self.JM_OFF_HEAP,
            "jobmanager.memory.jvm-metaspace.size": self.JM_METASPACE,
            "jobmanager.memory.jvm-overhead.min": self.JM_OVERHEAD,
            "jobmanager.memory.jvm-overhead.max": self.JM_OVERHEAD,
            "taskmanager.memory.framework.heap.size": self.TM_FRAMEWORK,
            "taskmanager.memory.framework.off-heap.size": self.TM_FRAMEWORK,
            "taskmanager.memory.task.heap.size": self.task_heap,
            "taskmanager.memory.task.off-heap.size": 0,
            "taskmanager.memory.managed.size": self.managed,
            "taskmanager.memory.network.min": self.TM_NETWORK,
            "taskmanager.memory.network.max": self.TM_NETWORK,
            "taskmanager.memory.jvm-metaspace.size": self.TM_METASPACE,
            "taskmanager.memory.jvm-overhead.min": self.TM_OVERHEAD,
            "taskmanager.memory.jvm-overhead.max": self.TM_OVERHEAD,
        }
        return {name: f"{size} mb" for name, size in sizes.items()} | {"taskmanager.cpu.cores": "1.0"}

    def jobmanager_options(self) -> list[str]:
        heap = self.jobmanager_heap
        return [f"-Xmx{heap}m", "-Xms64m", f"-XX:MaxMetaspaceSize={self.JM_METASPACE}m", *SMALL_JVM]

    def taskmanager_options(self, *, second_compiler: bool = False) -> list[str]:
        heap, direct = self.TM_FRAMEWORK + self.task_heap, self.TM_FRAMEWORK + self.TM_NETWORK
        options = [f"-Xmx{heap}m", "-Xms128m", f"-XX:MaxMetaspaceSize={self.TM_METASPACE}m"]
        small = (SERIAL_COLLECTOR,) if second_compiler else SMALL_JVM
        return [*options, f"-XX:MaxDirectMemorySize={direct}m", *small]


class Flink(Service):
    """The session cluster of the local stack. Checkpoints and savepoints lie in the data folder."""

    name = "flink"

    @property
    def external(self) -> str | None:
        return self.settings.flink.url

    @property
    def address(self) -> str:
        return self.settings.flink.address

    def version(self) -> str:
        return f"Apache Flink {package_version('apache-flink')}"

    def ports(self) -> tuple[Port, ...]:
        given = self.settings.flink
        return (
            Port(given.port, "Flink REST", "MILLSTREAM_FLINK__PORT"),
            Port(given.rpc_port, "Flink JobManager RPC", "MILLSTREAM_FLINK__RPC_PORT"),
        )

    def fetch(self, progress: Progress) -> None:
        java()
        need_package("apache-flink", "Flink")
        for artifacts in ("flink-connectors", "java-compiler"):
            ArtifactCache(self.settings.cache).fetch(
                artifacts, lambda done, total: progress.transferred(self.name, done, total)
            )

    def connectors(self) -> tuple[Path, ...]:
        """The verified connector jars, for `pipeline.jars` of a job. Raises `StackError` when not fetched."""
        return ArtifactCache(self.settings.cache).verified("flink-connectors")

    def compiler(self) -> Path:
        """The verified jar of the Java compiler (Eclipse's; run it with `java -jar`)."""
        return ArtifactCache(self.settings.cache).verified("java-compiler")[0]

    def prepare(self) -> None:
        given, memory = self.settings.flink, self.memory
        for folder in ("tmp", "rocksdb", "checkpoints", "savepoints", "conf"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        render(
            "config.yaml",
            self.conf / "config.yaml",
            host=LOOPBACK,
            rpc_port=given.rpc_port,
            rest_port=given.port,
            memory="\n".join(f"{name}: {value}" for name, value in memory.settings().items()),
            rocksdb=f"{memory.managed} mb",
            slots=given.slots,
            parallelism=given.parallelism,
            checkpoint_interval_ms=int(given.checkpoint_interval_s * 1000),
            checkpoints=given.checkpoints or f"file://{self.folder / 'checkpoints'}",
            savepoints=f"file://{self.folder / 'savepoints'}",
            folder=self.folder,
        )
        render("log4j-console.properties", self.conf / "log4j-console.properties")

    def units(self) -> tuple[Unit, ...]:
        rest = f"http://{LOOPBACK}:{self.settings.flink.port}"
        jobmanager = self._unit(
            self._command(JOBMANAGER, self.memory.jobmanager_options()),
            part="jobmanager",
            env=self._environment,
            health=Probe("http", f"{rest}/overview"),
        )
        taskmanager = self._unit(
            self._command(
                TASKMANAGER,
                self.memory.taskmanager_options(second_compiler=self.settings.flink.second_compiler),
            ),
            part="taskmanager",
            env={**self._environment, "MALLOC_ARENA_MAX": "2"},  # RocksDB fragments glibc's many arenas
            health=Probe("taskmanager-heartbeat", rest),
            ready=Probe("taskmanager", rest),
            stage=2,
        )
        return jobmanager, taskmanager

    def reach(self) -> Probe:
        return Probe("http", f"{self.address}/overview")

    @property
    def conf(self) -> Path:
        """The rendered `FLINK_CONF_DIR`."""
        return self.folder / "conf"

    @property
    def memory(self) -> Memory:
        return Memory(self.settings.flink.jobmanager_memory_mb, self.settings.flink.taskmanager_memory_mb)

    @cached_property
    def home(self) -> Path:
        """`FLINK_HOME`: the distribution inside the wheel."""
        spec = find_spec("pyflink")
        if spec is None or spec.origin is None:
            raise StackError(
                "Flink is not installed", where="package apache-flink", mend="run `./millstream`"
            )
        return Path(spec.origin).parent

    @cached_property
    def _environment(self) -> dict[str, str]:
        folders = {name: str(self.home / name.lower()) for name in ("LIB", "OPT", "PLUGINS", "BIN")}
        return {
            "FLINK_HOME": str(self.home),
            "FLINK_CONF_DIR": str(self.conf),
            "FLINK_LOG_DIR": str(self.settings.root / "logs"),
            **{f"FLINK_{name}_DIR": folder for name, folder in folders.items()},
        }

    @cached_property
    def _module_options(self) -> list[str]:
        """The wheel's own list of modules to open; it belongs to its version."""
        text = (self.home / "conf" / "config.yaml").read_text()
        return re.findall(r"--add-(?:exports|opens)=\S+", text)

    def _command(self, main: str, memory: list[str]) -> list[str]:
        jars = sorted((self.home / "lib").glob("*.jar"))
        return [
            str(java()),
            *memory,
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-OmitStackTraceInFastThrow",
            *self._module_options,
            f"-Dlog4j.configurationFile=file:{self.conf / 'log4j-console.properties'}",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            "-cp",
            os.pathsep.join(str(jar) for jar in jars),
            main,
            "--configDir",
            str(self.conf),
        ]
