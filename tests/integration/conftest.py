"""The fraud pipeline, deployed on the session's stack with a model trained on generated payments.

It is deployed while the tests of this folder run: those that follow have gateways of their own, and
controllers.
"""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from cli.deploy_commands import apply_all
from cli.jobs import job_specs
from core.settings import settings
from jobs.sources import generated
from jobs.training.fraud import streaming, train_fraud
from models.load import load
from models.registry import open_registry
from pipelines.load import load_scoring
from pipelines.training.configuration import Trees
from stack.local import Stack
from tests.integration.scenario import READY_S, Deployed

SMALL = replace(streaming(2_000), trees=Trees(trees=60, depth=5))


@pytest.fixture(scope="package")
def deployed(stack: Stack) -> Iterator[Deployed]:
    given, plan = settings(), load_scoring("fraud")
    store = open_registry(given)
    train_fraud(generated.generate(40_000), source=generated.SOURCE, configuration=SMALL, store=store)
    names = [spec.name for spec in job_specs([plan], given)]
    try:
        apply_all([plan], given, jobs=True)
        stack.wait_ready(names, READY_S)
        yield Deployed(stack, plan, given, load(store.resolve("fraud")))
    finally:
        for name in names:
            stack.remove_job(name)
