"""A receiver believes a notice only with the right signature; what it does not take is sent again."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from jobs.training.webhook import ATTEMPTS, SIGNATURE, Webhook, signed, verified
from schemas.catalog.training import TrainingNotice

SECRET = "a secret of sixteen or more"
CLOCK = ManualClock()
NOTICE = TrainingNotice(
    tenant="acme",
    id="run-1",
    model="fraud",
    state="succeeded",
    text="done",
    version="2",
    ended_at=CLOCK.now(),
)


@dataclass
class Receiver:
    address: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    known = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.got.append((body, dict(self.headers)))
            self.send_response(known.answers.pop(0) if known.answers else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known.address = f"http://127.0.0.1:{server.server_port}/hook"
    yield known
    server.shutdown()
    server.server_close()


def webhook(address: str) -> Webhook:
    return Webhook(address, secret=SECRET, timeout_s=2.0, clock=CLOCK, sleep=lambda _: None)


def test_a_receiver_can_tell_who_sent_it(receiver: Receiver) -> None:
    webhook(receiver.address).tell(NOTICE)
    ((body, headers),) = receiver.got
    now = int(CLOCK.now().timestamp())
    assert json.loads(body)["version"] == "2"
    assert headers["Idempotency-Key"] == "run-1-succeeded"
    assert verified(body, headers[SIGNATURE], secret=SECRET, now=now)
    assert not verified(body + b" ", headers[SIGNATURE], secret=SECRET, now=now)
    assert not verified(body, headers[SIGNATURE], secret="another one of length", now=now)
    assert not verified(body, headers[SIGNATURE], secret=SECRET, now=now + 301)


@pytest.mark.parametrize("header", ["", "t=,v1=", "t=1", "v1=00", "t=x,v1=00", "t=1,v1=00,t=99999999999"])
def test_a_signature_that_is_none_is_refused(header: str) -> None:
    assert not verified(b"{}", header, secret=SECRET, now=1)


def test_the_signature_is_hmac_sha256_over_time_and_body() -> None:
    """The definition, written out: the header of a body that is known."""
    import hashlib
    import hmac

    expected = hmac.new(b"key", b"1700000000.{}", hashlib.sha256).hexdigest()
    assert signed(b"{}", secret="key", at=1_700_000_000) == f"t=1700000000,v1={expected}"


def test_a_failing_receiver_is_asked_again_with_the_same_notice(receiver: Receiver) -> None:
    receiver.answers = [500, 429, 302]
    webhook(receiver.address).tell(NOTICE)
    assert len(receiver.got) == ATTEMPTS
    assert len({body for body, _ in receiver.got}) == 1


def test_a_refusal_is_final_and_silence_is_bounded(receiver: Receiver) -> None:
    receiver.answers = [410]
    with pytest.raises(Unavailable, match="refuses it: 410"):
        webhook(receiver.address).tell(NOTICE)
    assert len(receiver.got) == 1
    with pytest.raises(Unavailable, match="does not take it"):
        webhook("http://127.0.0.1:9/none").tell(NOTICE)
