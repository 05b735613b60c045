"""The local LLM servers: only where asked for, verified, watched, stopped."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from core.errors import StackError, UnknownName
from core.settings import Llm as LlmSettings
from core.settings import Settings, settings
from stack.catalog import services
from stack.llm import Llm, verify, weights
from stack.local import Stack
from tests.llm_real import real_server
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, free_ports, stack_env


def test_a_plain_up_starts_no_llm_server() -> None:
    assert "llm" not in {service.name for service in services(Settings())}
    assert [service.name for service in services(Settings(), {"llm"})] == ["llm"]
    with pytest.raises(UnknownName):
        services(Settings(), {"lml"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            LlmSettings(servers=2, port=8088),
            [("smollm2-135m-instruct", 8088), ("smollm2-135m-instruct", 8089)],
        ),
        (LlmSettings(url="http://a:1"), [("smollm2-135m-instruct", "http://a:1")]),
        (
            LlmSettings(url="one=http://a:1/, https://b/?x=y,two=http://c", model="m"),
            [("one", "http://a:1"), ("m", "https://b/?x=y"), ("two", "http://c")],
        ),
    ],
)
def test_addresses_name_their_models(given: LlmSettings, expected: list[tuple[str, int | str]]) -> None:
    wanted = [
        (model, f"http://127.0.0.1:{where}" if isinstance(where, int) else where) for model, where in expected
    ]
    assert list(given.addresses) == wanted


def test_an_external_server_is_reached_and_not_started() -> None:
    service = Llm(Settings(llm=LlmSettings(url="http://gpu-1:8000,http://gpu-2:8000")))
    assert service.external is not None
    assert (service.reach().kind, service.reach().target) == ("tcp", "gpu-1:8000")


def test_weights_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path)
    path = weights(settings.cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(StackError) as caught:
        verify(path)
    assert caught.value.code == "wrong_digest"


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    with real_server(tmp_path / "probe.log"):
        pass  # skips, or fails, where there are no weights
    env = stack_env(tmp_path / "home") | {"MILLSTREAM_LLM__PORT": str(free_ports(1)[0])}
    with environment(env, without=(*EXTERNAL_ADDRESSES, "MILLSTREAM_LLM__URL")):
        own = Stack(settings())
        yield own
        own.down()


@pytest.mark.services
def test_up_only_llm_serves_is_restarted_and_stopped(own_stack: Stack) -> None:
    own_stack.up({"llm"})
    row = own_stack.unit("llm")
    assert row.state == "ready"
    assert row.pid is not None
    url = settings().llm.addresses[0][1]
    assert httpx.get(f"{url}/v1/models", timeout=10).json()["data"][0]["id"] == "smollm2-135m-instruct"
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(row.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
    os.kill(row.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while own_stack.unit("llm").restarts == row.restarts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    own_stack.wait_ready(["llm"], timeout=60)
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).status_code == 200
    pid = own_stack.unit("llm").pid
    assert pid is not None
    own_stack.down()
    assert not psutil.pid_exists(pid)
