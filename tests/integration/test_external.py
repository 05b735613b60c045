"""Services given by address: a second installation that starts none of its own, on those of the first."""

from pathlib import Path

import pytest

from cli.deploy_commands import apply_all
from cli.jobs import GATEWAY, job_specs
from cli.stack_commands import local_stack
from core.settings import settings
from tests.integration.scenario import READY_S, Deployed, Scenario
from tests.stack_fixture import environment, stack_env

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def test_a_gateway_with_every_service_elsewhere_publishes_and_pushes(
    deployed: Deployed, tmp_path: Path
) -> None:
    """Its own folder, ports and supervisor; Kafka, registry, Redis, PostgreSQL and Flink by address."""
    there = deployed.settings
    addresses = {
        "MILLSTREAM_KAFKA__BOOTSTRAP": there.kafka.address,
        "MILLSTREAM_REGISTRY__URL": there.registry.address,
        "MILLSTREAM_FLINK__URL": there.flink.address,
        "MILLSTREAM_REDIS__URL": there.redis.address,
        "MILLSTREAM_POSTGRES__URL": there.postgres.address,
    }
    with environment(stack_env(tmp_path / "home") | addresses):
        here = settings()
        stack = local_stack(here)
        try:
            stack.up()
            assert {(row.state, row.pid) for row in stack.status()} == {("external", None)}
            apply_all([deployed.plan], here, jobs=False)
            (gateway,) = [spec for spec in job_specs([deployed.plan], here) if spec.name == GATEWAY]
            stack.add_job(gateway)
            stack.wait_ready([GATEWAY], READY_S)
            outcome = Scenario(
                Deployed(stack, deployed.plan, here, deployed.model), events=300, rate=100, seed=7
            ).run()
        finally:
            stack.down()
    outcome.check()
    assert len(outcome.tally.seen) == 300
