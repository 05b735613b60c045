"""Changes are told once each, validated, whoever made them; and no error ends the watch."""

import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from core.errors import ModelRefused, Unavailable
from models.registry import Following, ModelRegistry, RegistryChange, RegistryWatch
from models.registry.known import KnownVersion
from models.store import CHAMPION, MODEL, PREVIOUS
from schemas.registry_webhook import read_webhook
from tests.mlflow_fixture import Server
from tests.models import made

OFTEN = timedelta(milliseconds=100)


def told(changes: list[RegistryChange]) -> list[tuple[str, str, str | None, str | None, str | None]]:
    seen = [(c.kind, c.name, c.version, c.alias, c.before) for c in changes]
    changes.clear()
    return seen


def test_every_change_is_told_once(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    changes: list[RegistryChange] = []
    registry.publish("small", files, made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "1")
    watch = RegistryWatch(registry, OFTEN, changes.append)
    watch.look()
    assert told(changes) == [("alias_moved", "small", "1", CHAMPION, None)]
    assert watch.look() == 0
    registry.publish("small", files, made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "2")
    watch.look()
    assert told(changes) == [
        ("version_added", "small", "2", None, None),
        ("alias_moved", "small", "2", CHAMPION, "1"),
        ("alias_moved", "small", "1", PREVIOUS, None),
    ]
    with registry._connection.asking("take away") as client:
        client.delete_registered_model_alias("small", PREVIOUS)
        client.delete_model_version("small", "1")
    watch.look()
    assert told(changes) == [
        ("alias_removed", "small", None, PREVIOUS, "1"),
        ("version_removed", "small", "1", None, None),
    ]
    assert registry.cache.aliases("small") == {CHAMPION: "2"}
    with registry._connection.asking("take away") as client:
        client.delete_registered_model("small")
    watch.look()
    assert told(changes) == [
        ("alias_removed", "small", None, CHAMPION, "2"),
        ("version_removed", "small", "2", None, None),
    ]


def test_a_version_that_may_not_be_served_is_told_with_the_reason(
    registry: ModelRegistry, files: dict[str, bytes]
) -> None:
    """Somebody moves the champion with MLflow's own client: onto a damaged version, then an unsigned one."""
    changes: list[RegistryChange] = []
    for _ in range(2):
        registry.publish("small", files, made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "1")
    watch = RegistryWatch(registry, OFTEN, changes.append)
    watch.look()
    changes.clear()
    (registry.cache.resolve("small", "2").folder).rename(registry.cache.root / "away")
    Path(registry.models()["small"].versions["2"].source, MODEL).write_bytes(b"damaged")
    with registry._connection.asking("move") as client:
        client.set_registered_model_alias("small", CHAMPION, "2")
    watch.look()
    (change,) = changes
    assert (change.kind, change.version, change.before) == ("alias_moved", "2", "1")
    assert isinstance(change.problem, ModelRefused)
    assert Following(registry).resolve("small").version == "1", "followers keep what they have"
    changes.clear()
    with registry._connection.asking("move") as client:
        client.create_model_version("small", "/nowhere")
        client.set_registered_model_alias("small", CHAMPION, "3")
    watch.look()
    assert [str(c.problem and c.problem.what) for c in changes] == ["it is unsigned: it has no digest"] * 2
    assert watch.look() == 0


def test_a_change_whose_call_failed_is_told_again(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    calls: list[RegistryChange] = []

    def fails_first(change: RegistryChange) -> None:
        calls.append(change)
        if len(calls) == 1:
            raise RuntimeError("the broker is away")

    registry.publish("small", files, made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "1")
    watch = RegistryWatch(registry, OFTEN, fails_first)
    watch.start()
    try:
        _until(lambda: len(calls) == 2)
        assert calls[0] == calls[1]
        registry.publish("small", files, made.DESCRIPTION)
        _until(lambda: len(calls) == 3)
        assert (calls[2].kind, calls[2].version) == ("version_added", "2")
    finally:
        watch.stop()


def test_a_signed_webhook_of_the_real_server_wakes_the_watch(
    of_server: Callable[[str], ModelRegistry], mlflow_server: Server, files: dict[str, bytes]
) -> None:
    """MLflow signs and sends it; the watch alone would not look for an hour."""
    secret = "a secret of both sides"
    registry = of_server("here")
    changes: list[RegistryChange] = []
    watch = RegistryWatch(of_server("there"), timedelta(hours=1), changes.append)
    refused: list[Exception] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                notice = read_webhook(dict(self.headers), body, secret=secret, now=datetime.now(UTC))
                if notice is not None and notice.name == "hooked":
                    watch.wake()
            except Exception as error:
                refused.append(error)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        with registry._connection.asking("ask for webhooks") as client:
            hook = client.create_webhook(
                "test",
                f"http://127.0.0.1:{receiver.server_address[1]}/",
                ["model_version_alias.created"],
                secret=secret,
            )
        try:
            registry.publish("hooked", files, made.DESCRIPTION)
            watch.start()
            time.sleep(1)
            registry.set_alias("hooked", CHAMPION, "1")
            _until(lambda: any(c.name == "hooked" and c.alias == CHAMPION for c in changes))
            assert refused == []
        finally:
            with registry._connection.asking("no more webhooks") as client:
                client.delete_webhook(hook.webhook_id)
            watch.stop()
            receiver.shutdown()


def _until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> object:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "watch-models"]


def test_a_model_that_cannot_be_read_keeps_no_other_from_its_turn(
    registry: ModelRegistry, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[RegistryChange] = []
    watch = RegistryWatch(registry, OFTEN, changes.append)
    watch.look()
    for name in ("a", "b"):
        registry.publish(name, files, made.DESCRIPTION)
        registry.set_alias(name, CHAMPION, "1")
        shutil.rmtree(registry.cache.resolve(name, "1").folder)
    bring = ModelRegistry._bring

    def away(self: ModelRegistry, known: KnownVersion, where: str) -> None:
        if known.name == "a":
            raise Unavailable("its artifacts are away")
        bring(self, known, where)

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, "_bring", away)
        with pytest.raises(Unavailable, match="artifacts are away"):
            watch.look()
    assert {change.name for change in changes} == {"b"}
    changes.clear()
    watch.look()
    assert {change.name for change in changes} == {"a"}
    (registry.cache.root / "b" / CHAMPION).write_bytes(b"damaged")
    assert watch.look() == 0
    assert Following(registry).resolve("b").version == "1"
    assert registry.cache.pointer("b", CHAMPION) == "1", "an alias that was damaged is there again"
