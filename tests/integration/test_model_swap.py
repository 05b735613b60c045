"""A running worker: a good version takes over in mid-stream, bad ones are refused while it scores."""

import time
from collections import Counter

import httpx
import psycopg
import pyarrow as pa
import pytest

from core.settings import settings
from models import golden
from models.registry import open_registry
from models.store import CHAMPION, GOLDEN, MODEL, ModelStore, StoredModel
from tests.integration.scenario import Deployed, Scenario

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

NAME = "fraud"
WORKER = "fraud-worker"


def count_of(deployed: Deployed, metric: str) -> float:
    """A counter of the running worker; 0 before it first counts."""
    text = httpx.get(f"{deployed.stack.unit(WORKER).address}/metrics", timeout=5).text
    name = f"millstream_{metric}{{"
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def published(store: ModelStore, like: StoredModel, **files: bytes) -> StoredModel:
    """A new version that differs in some files, with digests that are right for them."""
    same = {file: like.read(file) for file in like.manifest.files}
    return store.publish(NAME, {**same, **files}, like.manifest.description)


def promoted(deployed: Deployed, store: ModelStore, version: str, metric: str) -> None:
    """Move the alias; returns once the worker has counted it."""
    before = count_of(deployed, metric)
    store.set_alias(NAME, CHAMPION, version)
    deadline = time.monotonic() + 120  # what is damaged is fetched once more, by another process
    while count_of(deployed, metric) == before:
        assert time.monotonic() < deadline, f"{metric} does not rise for version {version}"
        time.sleep(0.1)


def test_a_good_model_takes_over_in_mid_stream_and_bad_ones_are_refused(deployed: Deployed) -> None:
    store = open_registry(settings()).cache  # beside the registry, which would refuse them
    first = store.resolve(NAME)

    damaged = published(store, first)
    model = bytearray(damaged.read(MODEL))
    model[len(model) // 2] ^= 0xFF
    (damaged.folder / MODEL).write_bytes(bytes(model))

    rows, expected = golden.unpack(first.read(GOLDEN), where="the test")
    wrong = golden.pack(pa.Table.from_batches([rows]), 1 - expected, deployed.model.signature)
    disagreeing = published(store, first, **{GOLDEN: wrong})
    unreadable = published(store, first, **{MODEL: first.read(MODEL)[:1000]})
    good = published(store, first)

    before = count_of(deployed, "worker_records_total")

    def disturb(deployed: Deployed) -> None:
        deadline = time.monotonic() + 60
        while count_of(deployed, "worker_records_total") == before:  # on a slow machine none came through yet
            assert time.monotonic() < deadline, "nothing is scored"
            time.sleep(0.1)
        promoted(deployed, store, good.version, "worker_model_swapped_total")
        for bad in (damaged, disagreeing, unreadable):
            promoted(deployed, store, bad.version, "worker_model_refused_total")

    try:
        outcome = Scenario(deployed, events=3000, rate=150, seed=6, disturb=disturb).run()
    finally:
        store.set_alias(NAME, CHAMPION, first.version)
    outcome.check()
    with psycopg.connect(deployed.settings.postgres.address) as connection:
        scored = Counter(
            dict(
                connection.execute(
                    "SELECT model_version, count(*) FROM transactions WHERE tenant = %s GROUP BY 1",
                    (outcome.tenant,),
                ).fetchall()
            )
        )
    assert scored.keys() == {first.version, good.version}, scored
    assert scored.total() == 3000
