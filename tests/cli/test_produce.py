"""`millstream produce` on the real stack: what it says it published is on the topic, as derived."""

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cli.main import run
from cli.produce_commands import PIPELINES, events_of
from core.ids import new_id
from core.settings import settings
from pipelines import recorded, references
from pipelines.load import load_features
from stack.local import Stack
from tests.gateway.running import RunningGateway

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

RATE, SECONDS = 30, 2


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[RunningGateway]:
    with RunningGateway(stack.settings) as running:
        yield running


def produce(pipeline: str, *more: str) -> "subprocess.CompletedProcess[str]":
    given = ["--rate", str(RATE), "--seconds", str(SECONDS), "--generated", *more]
    command = [sys.executable, "-P", "-m", "cli", "produce", pipeline, *given]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def content(table: pa.Table, time: str) -> list[dict[str, Any]]:
    """All but what is of the run: the id and the time."""
    names = [name for name in table.column_names if name not in ("id", "tenant", time)]
    rows = table.select(names).to_pylist()
    return sorted(rows, key=lambda row: [str(row[name]) for name in sorted(names)])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_is_accepted_is_on_the_topic_as_it_was_derived(gateway: RunningGateway, pipeline: str) -> None:
    del gateway
    plan, tenant = load_features(pipeline), f"shop-{new_id()[-8:]}"
    time = plan.view.time
    begun = datetime.now(UTC)
    done = produce(pipeline, "--tenant", tenant, "--seed", "3")
    ended = datetime.now(UTC)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{RATE * SECONDS} events accepted, 0 refused, of tenant {tenant}", done.stdout)
    rows = recorded.read(plan.source, settings(), tenant=tenant)
    assert rows.num_rows == RATE * SECONDS
    assert len(set(rows.column("id").to_pylist())) == rows.num_rows
    times = sorted(rows.column(time).to_pylist())
    assert begun - timedelta(milliseconds=1) <= times[0]
    assert times[-1] <= ended
    assert times[-1] - times[0] >= timedelta(seconds=SECONDS) * 0.8, "at a steady rate"
    derived = events_of(pipeline, RATE * SECONDS, tenant, generated=True, seed=3)
    assert content(rows.select(derived.column_names), time) == content(derived, time)

    if pipeline == "merchants":
        (table,) = references.tables(plan.view, settings()).values()
        known = table.select(["tenant", "merchant_id"]).to_pylist()
        sold = {"tenant": tenant}
        assert all(sold | {"merchant_id": one} in known for one in set(rows["merchant_id"].to_pylist()))


def test_a_pipeline_without_recorded_events_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["millstream", "produce", "fraud"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code != 0
    assert "known: demand, merchants" in capsys.readouterr().err
