"""TLS by setting: https and wss with a certificate of the tests' own, and what is said of files that are
none."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect

from core.errors import StackError
from core.settings import Gateway, Settings
from gateway.wire.listener import Listener
from stack.probes import ask
from stack.unit import Probe
from tests.certificates import pair
from tests.gateway.streaming import KEY, Streaming, streaming

PATIENCE_S = 60


@asynccontextmanager
async def over_tls(folder: Path) -> AsyncIterator[tuple[Streaming, ssl.SSLContext]]:
    certificate, private_key = pair(folder)
    async with streaming(tls=(certificate, private_key)) as made:
        yield made, ssl.create_default_context(cafile=str(certificate))


async def test_https_and_wss_with_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as (made, trusted):
        url = f"https://127.0.0.1:{made.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=PATIENCE_S) as http:
            answer = await http.get("/api/v1/stream")
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        address = f"wss://127.0.0.1:{made.port}/api/v1/stream"
        async with asyncio.timeout(PATIENCE_S), connect(address, ssl=trusted) as socket:
            await socket.send(json.dumps({"type": "connect", "token": KEY}))
            assert json.loads(await socket.recv())["type"] == "connected"
        probe = Probe("own-https", url + "/nowhere")
        assert "404" in (await asyncio.to_thread(ask, probe, timeout_s=PATIENCE_S)).reason


async def test_nobody_is_served_in_the_clear_or_by_an_old_protocol(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as (made, trusted):
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(made.url + "/api/v1/stream")
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(f"https://127.0.0.1:{made.port}/api/v1/stream")
        trusted.minimum_version = ssl.TLSVersion.TLSv1_1
        trusted.maximum_version = ssl.TLSVersion.TLSv1_1
        trusted.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection("127.0.0.1", made.port, ssl=trusted)


def test_files_that_are_no_certificate_and_key_are_told(tmp_path: Path) -> None:
    good, key = pair(tmp_path)
    other = pair(tmp_path, "other")[1]
    locked = pair(tmp_path, "locked", password=b"secret")
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(good.read_bytes()[:200])
    cases = [
        (tmp_path / "absent.pem", key, "tls_unreadable", "absent.pem"),
        (good, tmp_path, "tls_unreadable", str(tmp_path)),
        (damaged, key, "tls_damaged", "damaged.pem"),
        (good, other, "tls_damaged", "other.key"),
        (key, good, "tls_damaged", "own.key"),
        (*locked, "tls_damaged", "encrypted"),
    ]
    for certificate, private_key, code, said in cases:
        with pytest.raises(StackError) as told:
            Listener(None, "127.0.0.1", 0, tls=(certificate, private_key))  # type: ignore[arg-type]
        assert told.value.code == code
        assert said in told.value.what
        assert told.value.mend


def test_a_certificate_without_its_key_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="go together"):
        Gateway(certificate=Path("own.pem"))


def test_the_address_and_who_has_the_certificate() -> None:
    alone = Gateway(certificate=Path("own.pem"), private_key=Path("own.key"))
    assert alone.address == "https://127.0.0.1:8000"
    assert Gateway().address == "http://127.0.0.1:8000"
    settings = Settings(gateway=alone)
    assert settings.gateway_tls == (Path("own.pem"), Path("own.key"))
    several = settings.balancer.model_copy(update={"gateways": 2, "first_port": 8001})
    behind = settings.model_copy(
        update={"balancer": several, "gateway": alone.model_copy(update={"port": 8002})}
    )
    assert behind.gateway_tls is None, "the balancer has it"
    assert Settings().gateway_tls is None
