"""The balancer with a certificate: https before, gateways in the clear behind."""

import json
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from core.errors import StackError
from core.settings import LOOPBACK, Gateway, Settings
from core.settings import Balancer as BalancerSettings
from stack.balancer import Balancer, envoy_binary
from stack.balancer_rules import Address, configuration
from tests.certificates import pair
from tests.stack_fixture import free_ports, services_required

WITHIN_S = 60.0


@pytest.mark.services
def test_it_answers_by_https_with_the_certificate_of_the_settings(tmp_path: Path) -> None:
    binary = envoy_binary()
    if binary is None:
        assert not services_required(), "there is no Envoy"
        pytest.skip("NOT TESTED: there is no Envoy")
    port, admin, nobody = free_ports(3)
    tls = pair(tmp_path)
    made = configuration(
        Settings(),
        listen=Address(LOOPBACK, port),
        gateways=[Address(LOOPBACK, nobody)],
        admin=Address(LOOPBACK, admin),
        tls=tls,
    )
    (tmp_path / "envoy.json").write_text(json.dumps(made))
    argv = [binary, "--config-path", tmp_path / "envoy.json", "--concurrency", "1", "--disable-hot-restart"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        trusted = ssl.create_default_context(cafile=str(tls[0]))
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                answer = httpx.get(f"https://{LOOPBACK}:{port}/livez", verify=trusted, timeout=WITHIN_S)
                break
            except httpx.ConnectError:
                assert process.poll() is None, "Envoy ended"
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_gateway")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{LOOPBACK}:{port}/livez", timeout=WITHIN_S)
    finally:
        process.kill()
        process.wait()


def test_a_certificate_that_is_none_is_told_before_it_starts(tmp_path: Path) -> None:
    certificate, private_key = pair(tmp_path)
    own = Gateway(certificate=private_key, private_key=certificate)
    settings = Settings(home=tmp_path, gateway=own, balancer=BalancerSettings(gateways=2))
    assert Balancer(settings).address == "https://127.0.0.1:8000"
    with pytest.raises(StackError, match="no certificate and its key"):
        Balancer(settings).prepare()
