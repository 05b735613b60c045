"""The rendered Flink configuration, judged by Flink itself."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from core.settings import Flink as FlinkSettings
from core.settings import Settings
from stack.flink import Flink, Memory
from stack.service import java

SIZES = [(700, 900), (512, 768), (2048, 8192)]


def flink(tmp_path: Path, jobmanager_mb: int = 700, taskmanager_mb: int = 900) -> Flink:
    given = FlinkSettings(jobmanager_memory_mb=jobmanager_mb, taskmanager_memory_mb=taskmanager_mb)
    service = Flink(Settings(home=tmp_path, flink=given))
    service.prepare()
    return service


def ask_flink(service: Flink, command: str) -> str:
    """What Flink's own start script would learn about memory from this configuration."""
    home = service.home
    jars = [home / "bin" / "bash-java-utils.jar", home / "lib" / "flink-dist-2.3.0.jar"]
    jars += sorted((home / "lib").glob("log4j-*.jar"))
    done = subprocess.run(
        [
            str(java()),
            "-Xmx64m",
            "-cp",
            os.pathsep.join(map(str, jars)),
            "org.apache.flink.runtime.util.bash.BashJavaUtils",
            command,
            "--configDir",
            str(service.conf),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(("jobmanager_mb", "taskmanager_mb"), SIZES)
def test_flink_derives_the_same_memory_from_our_configuration(
    tmp_path: Path, jobmanager_mb: int, taskmanager_mb: int
) -> None:
    service = flink(tmp_path, jobmanager_mb, taskmanager_mb)
    told = ask_flink(service, "GET_TM_RESOURCE_PARAMS")
    heap = re.search(r"-Xmx(\d+)", told)
    direct = re.search(r"-XX:MaxDirectMemorySize=(\d+)", told)
    assert heap
    assert direct
    ours = service.memory.taskmanager_options()
    assert f"-Xmx{int(heap[1]) >> 20}m" in ours
    assert f"-XX:MaxDirectMemorySize={int(direct[1]) >> 20}m" in ours
    told = ask_flink(service, "GET_JM_RESOURCE_PARAMS")
    heap = re.search(r"-Xmx(\d+)", told)
    assert heap
    assert f"-Xmx{int(heap[1]) >> 20}m" in service.memory.jobmanager_options()


@pytest.mark.parametrize(("jobmanager_mb", "taskmanager_mb"), SIZES)
def test_the_parts_of_the_memory_add_up_to_the_process(jobmanager_mb: int, taskmanager_mb: int) -> None:
    memory = Memory(jobmanager_mb, taskmanager_mb)
    sizes = {name: int(value.split()[0]) for name, value in memory.settings().items() if value.endswith("mb")}
    minima = {name: size for name, size in sizes.items() if not name.endswith(".max")}
    assert sum(size for name, size in minima.items() if name.startswith("jobmanager")) == jobmanager_mb
    assert sum(size for name, size in minima.items() if name.startswith("taskmanager")) == taskmanager_mb
    assert all(size >= 0 for size in sizes.values())


def test_every_address_is_loopback_and_state_lies_in_the_data_folder(tmp_path: Path) -> None:
    service = flink(tmp_path)
    rendered = yaml.safe_load((service.conf / "config.yaml").read_text())
    for name in (
        "jobmanager.rpc.address",
        "jobmanager.bind-host",
        "taskmanager.host",
        "taskmanager.bind-host",
        "rest.address",
        "rest.bind-address",
    ):
        assert rendered[name] == "127.0.0.1", name
    assert rendered["execution.checkpointing.dir"] == f"file://{tmp_path}/flink/checkpoints"
    assert rendered["state.backend.type"] == "rocksdb"
    assert rendered["execution.checkpointing.externalized-checkpoint-retention"] == "RETAIN_ON_CANCELLATION"
    assert "$" not in (service.conf / "config.yaml").read_text()


@pytest.mark.parametrize("second", [False, True])
def test_only_the_taskmanager_may_have_the_second_compiler(tmp_path: Path, second: bool) -> None:
    given = FlinkSettings(second_compiler=second)
    jobmanager, taskmanager = Flink(Settings(home=tmp_path, flink=given)).units()
    assert "-XX:TieredStopAtLevel=1" in jobmanager.argv
    assert ("-XX:TieredStopAtLevel=1" not in taskmanager.argv) == second
