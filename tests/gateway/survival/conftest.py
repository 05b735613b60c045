"""The site of these tests, for all of them."""

from collections.abc import Iterator

import pytest

from cli.stack_commands import local_stack
from core.ids import new_id
from core.settings import settings
from pipelines.changes import apply, apply_topics
from pipelines.generating import TOPICS as GENERATING_TOPICS
from pipelines.load import load_plan
from schemas.catalog.training import TOPICS as TRAINING_TOPICS
from stack.balancer import envoy_binary
from stack.local import Stack
from tests.gateway.survival.site import Site
from tests.jobs.worker.payments import plan
from tests.stack_fixture import consecutive_ports, environment, free_ports, services_required, stack_env


@pytest.fixture(scope="package")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if envoy_binary() is None:
        if services_required():
            pytest.fail("there is no Envoy, and MILLSTREAM_REQUIRE_SERVICES=1")
        pytest.skip("NOT TESTED: there is no Envoy for this platform")
    there = stack.settings
    (admin,), (first, _) = free_ports(1), consecutive_ports()
    more = {
        "MILLSTREAM_KAFKA__BOOTSTRAP": there.kafka.address,
        "MILLSTREAM_REGISTRY__URL": there.registry.address,
        "MILLSTREAM_FLINK__URL": there.flink.address,
        "MILLSTREAM_REDIS__URL": there.redis.address,
        "MILLSTREAM_POSTGRES__URL": there.postgres.address,
        "MILLSTREAM_BALANCER__GATEWAYS": "2",
        "MILLSTREAM_BALANCER__FIRST_PORT": str(first),
        "MILLSTREAM_BALANCER__ADMIN_PORT": str(admin),
        "MILLSTREAM_GATEWAY__PUBLISH_TIMEOUT_S": "30",  # what a busy machine takes is not what is tested
        "MILLSTREAM_GATEWAY__PUSH_RING": "100",  # so that who comes back is read for from Kafka, too
        "MILLSTREAM_SUPERVISOR__HEALTH_DELAY_S": "300",  # a slow start on a busy machine is no illness
        "MILLSTREAM_SUPERVISOR__BACKOFF_FIRST_S": "0.05",
        "MILLSTREAM_SUPERVISOR__BACKOFF_LONGEST_S": "0.2",
        "MILLSTREAM_SUPERVISOR__ALERT_RESTARTS": "1000",
    }
    scored, echoed = (plan(f"{name}{new_id().replace('-', '')}") for name in ("s", "e"))
    home = tmp_path_factory.mktemp("site")
    with environment(stack_env(home) | more):
        apply([scored, echoed, load_plan("demand")], settings())
        apply_topics([*TRAINING_TOPICS, *GENERATING_TOPICS], settings())
        made = Site(stack, local_stack(settings()), settings(), scored, echoed, home / "breaks")
        try:
            made.stack.up({"balancer"})
            worker = made.start("breaking", scored, str(made.breaks))
            made.add_gateways()
            worker.wait_ready()
            yield made
        finally:
            made.close()
            made.stack.down()
