"""Pipelines are checked when they are planned: order, names, records, partitions, a default output."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import DeclarationError, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from pipelines.catalog.fraud import BANDS, ENRICHED, LABELS, RESULTS, STATUS, TRANSACTIONS, fraud
from pipelines.load import load_plan
from pipelines.text import plan_text
from schemas.topic import Topic

GOLDEN = Path(__file__).parents[1] / "golden" / "plan"


def whole(p: Pipeline, *, source: Topic = TRANSACTIONS, results: Topic = RESULTS) -> None:
    scored = p.read(source).enrich(CARD_ACTIVITY, to=ENRICHED).infer("fraud")
    p.write(scored.ok.decide(BANDS).ok, results)
    p.follow(status=STATUS, labels=LABELS)


def test_the_plan_of_fraud_is_the_golden_one() -> None:
    golden = GOLDEN / "fraud.txt"
    assert plan_text(fraud.plan()) == golden.read_text(), (
        "the plan changed; if that is meant, run `millstream plan fraud --text` into the golden file"
    )


def test_the_shipped_pipeline_is_found_by_its_entry_point() -> None:
    assert load_plan("fraud") == fraud.plan()


def test_an_unknown_pipeline_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="frud") as caught:
        load_plan("frud")
    assert caught.value.nearest == "fraud"


def test_a_pipeline_without_a_default_output_does_not_plan() -> None:
    with pytest.raises(DeclarationError, match="default output"):
        pipeline("t", version=1)(whole).plan()


def test_a_missing_part_is_named() -> None:
    def nothing(p: Pipeline) -> None:
        p.read(TRANSACTIONS)

    with pytest.raises(DeclarationError, match="no view"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(nothing).plan()


def test_two_steps_of_one_name_are_refused() -> None:
    def twice(p: Pipeline) -> None:
        events = p.read(TRANSACTIONS)
        events.enrich(CARD_ACTIVITY, to=ENRICHED, step="read")

    with pytest.raises(DeclarationError, match="two steps named 'read'"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(twice).plan()


def test_a_topic_of_another_record_is_refused() -> None:
    with pytest.raises(DeclarationError, match="holds StatusChange"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(lambda p: whole(p, results=STATUS)).plan()


def test_topics_of_one_path_have_equal_partition_counts() -> None:
    wider = replace(RESULTS, partitions=8)
    with pytest.raises(DeclarationError, match="8 partitions"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(lambda p: whole(p, results=wider)).plan()
