"""MLflow's server, the gateway and the controller as they are: news comes by webhook, aliases follow."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from core.ids import new_id
from core.settings import Mlflow, Settings
from models.registry import ModelRegistry, open_registry
from models.store import CHAMPION
from schemas.catalog.models import COMMANDS
from schemas.registry_webhook import MAX_BYTES, sign
from stack.local import Stack
from tests.gateway.running import RunningGateway
from tests.jobs.rollout.world import Process, World
from tests.jobs.worker.on_kafka import until
from tests.mlflow_fixture import Server
from tests.models import made as models

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]
SECRET = "a secret of both sides"
PATH = "/api/v1/registry/webhook"


class Registered(World):
    """A world whose versions are in MLflow, as another machine sees it. It has no worker: what is routed is
    served by those that start."""

    registry_of_models: ModelRegistry
    gateway: RunningGateway
    mlflow: Server

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.registry_of_models.publish(self.model, models.files(models.booster()), models.DESCRIPTION)

    @contextmanager
    def control(self) -> Iterator[Process]:
        """A controller that by itself looks at MLflow once an hour."""
        env = {
            "MILLSTREAM_MLFLOW__URI": self.mlflow.uri,
            "MILLSTREAM_MLFLOW__POLL_S": "3600",
            "MILLSTREAM_MLFLOW__TIMEOUT_S": "30",
        }
        with self.process("controller", **env) as process:
            yield process

    def active(self) -> str | None:
        return self.fleet().active

    def aliases(self) -> dict[str, str]:
        return self.registry_of_models.aliases(self.model)

    def noted(self) -> bool:
        routing = self.fleet().routing
        return routing is not None and not routing.promoted and routing.champion == self.active()


@pytest.fixture(scope="module")
def world(
    stack: Stack, mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registered]:
    given = stack.settings.model_copy(update={"mlflow": Mlflow(webhook_secret=SECRET)})
    with RunningGateway(given) as gateway:
        made = Registered(tmp_path_factory.mktemp("unused"))
        made.gateway, made.mlflow = gateway, mlflow_server
        elsewhere = Settings(home=tmp_path_factory.mktemp("elsewhere"), mlflow=Mlflow(uri=mlflow_server.uri))
        made.registry_of_models = open_registry(elsewhere)
        made.publish(3)
        made.registry_of_models.set_alias(made.model, CHAMPION, "1")
        with made.running():
            yield made


@pytest.fixture
def hook(world: Registered) -> Iterator[None]:
    """MLflow tells the gateway of aliases."""
    with world.registry_of_models._connection.asking("ask for webhooks") as client:
        made = client.create_webhook(
            "test", f"{world.gateway.url}{PATH}", ["model_version_alias.created"], secret=SECRET
        )
        yield
        client.delete_webhook(made.webhook_id)


def test_a_champion_moved_in_mlflow_is_routed_at_its_webhook(world: Registered, hook: None) -> None:
    with world.control():
        until(lambda: world.active() == "1", "the first look", 400)
        world.registry_of_models.set_alias(world.model, CHAMPION, "2")
        until(lambda: world.active() == "2", "the champion of the webhook", 400)
        until(world.noted, "the registry and the routing agree", 400)
    assert world.aliases() == {"champion": "2", "previous": "1"}


def test_aliases_follow_a_rollback_and_a_second_one(world: Registered) -> None:
    with world.control():
        until(lambda: world.active() is not None and world.noted(), "the controller", 400)
        before = world.aliases()
        for aliases in ({"champion": before["previous"], "previous": before["champion"]}, before):
            answer = world.reply(world.ask("rollback"), deadline_s=400)
            assert (answer.outcome, answer.target) == ("done", aliases["champion"])
            until(lambda aliases=aliases: world.aliases() == aliases, "the aliases", 400)
            until(world.noted, "the registry and the routing agree", 400)
        revision = world.fleet().routing.revision  # type: ignore[union-attr]
        world.reply(world.ask("look"))
        world.reply(world.ask("look"))
        assert world.fleet().routing.revision == revision  # type: ignore[union-attr]


def test_a_controller_killed_while_the_registry_is_away_loses_no_alias(world: Registered) -> None:
    with world.control() as process:
        until(lambda: world.active() is not None and world.noted(), "the controller", 400)
        before = world.aliases()
        world.mlflow.stop()
        try:
            answer = world.reply(world.ask("rollback"), deadline_s=400)
            assert (answer.outcome, answer.target) == ("done", before["previous"])
            until(lambda: world.active() == before["previous"], "the rollback")
            process.kill()
        finally:
            world.mlflow.start()
    assert world.aliases() == before
    with world.control():
        until(lambda: world.aliases()["champion"] == before["previous"], "the alias", 400)
        until(world.noted, "the registry and the routing agree", 400)
        assert world.active() == before["previous"]
    assert world.aliases() == {"champion": before["previous"], "previous": before["champion"]}


def delivery(body: bytes, *, secret: str = SECRET, age_s: float = 0, id: str | None = None) -> dict[str, str]:
    stamp, id = str(int(time.time() - age_s)), new_id() if id is None else id
    return {
        "content-type": "application/json",
        "X-MLflow-Delivery-Id": id,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": sign(body, secret=secret, delivery=id, timestamp=stamp),
    }


def notice(name: str = "fraud", **more: object) -> bytes:
    said = {"entity": "registered_model", "action": "created", "data": {"name": name}, **more}
    return json.dumps(said).encode()


def test_what_is_not_mlflows_or_not_new_is_refused_and_wakes_nobody(world: Registered) -> None:
    def post(body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        answer = httpx.post(f"{world.gateway.url}{PATH}", content=body, headers=headers, timeout=30)
        return answer.status_code, answer.json()["code"] if answer.content else ""

    def count() -> int:
        return world.count(COMMANDS)

    before = count()
    body = notice()
    good = delivery(body)
    for other in (notice(entity="prompt"), notice(entity="prompt", data=[])):
        assert post(other, delivery(other)) == (204, ""), "not about models: taken, and nothing to do"
    for headers in (
        {},
        good | {"X-MLflow-Signature": "v1,AAAA"},
        delivery(body, secret="another secret, just as long"),
        delivery(body, age_s=600),
        delivery(body, age_s=-600),
        delivery(body, id=""),
        good | {"X-MLflow-Delivery-Id": "another"},
    ):
        assert post(body, headers)[0] == 401, headers
    for wrong in (
        b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"entity": "model_version", "action": "created"}',
        notice("n" * 300), notice(""), notice("\ud800"), notice(data={"name": 7}), notice(data=[]),
    ):  # fmt: skip
        assert post(wrong, delivery(wrong)) == (400, "malformed_body"), wrong[:80]
    large = notice(more="x" * MAX_BYTES)
    assert post(large, delivery(large))[0] == 413
    assert count() == before
    assert post(body, good) == (204, "")
    assert count() == before + 1
    assert post(body, good) == (409, "webhook_replayed")
    assert count() == before + 1
    odd = notice("Not one of ours/../é \x00")
    assert post(odd, delivery(odd)) == (204, "")
