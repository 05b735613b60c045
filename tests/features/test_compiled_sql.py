"""The compiled SQL of the shipped pipelines, under review as golden files.

After a meant change run this file with `MILLSTREAM_WRITE_GOLDEN=1` and read the diff.
"""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from core.errors import DeclarationError
from features.compile import duckdb
from features.compile.flink import PLACEHOLDER, Connection, Stream
from features.compile.flink_columns import interval
from features.view import Cumulating, Hopping
from jobs.on_flink.stream import stream_of
from pipelines.load import load_plan, load_plans, load_scoring
from pipelines.plan import FeaturesPlan, ScoringPlan
from schemas.topic import Topic
from tests.features.test_identity import DEMAND
from tests.features.views import VIEW

GOLDEN = Path(__file__).parents[1] / "golden" / "sql"


def fraud() -> Stream:
    plan = load_scoring("fraud")
    return Stream(plan.pipeline, plan.source, plan.view, plan.patterns, plan.enriched, plan.alerts)


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("MILLSTREAM_WRITE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_the_flink_sql_of_the_fraud_pipeline() -> None:
    compare("fraud.flink.sql", fraud().compile(PLACEHOLDER).text)


@pytest.mark.parametrize("name", sorted(load_plans()))
def test_the_sql_of_every_shipped_view(name: str) -> None:
    plan = load_plan(name)
    if isinstance(plan, FeaturesPlan):
        compare(f"{plan.view.name}.flink.sql", stream_of(plan).compile(PLACEHOLDER).text)
    carried = ("id",) if isinstance(plan, ScoringPlan) else ()
    compare(f"{plan.view.name}.duckdb.sql", duckdb.select(plan.view, "events", carried=carried) + ";\n")


def test_the_duckdb_sql_of_a_windowed_view() -> None:
    compare("demand.duckdb.sql", duckdb.select(DEMAND, "rides") + ";\n")


def test_the_duckdb_sql_of_hopping_and_cumulating_windows() -> None:
    hopping = replace(DEMAND, window=Hopping(timedelta(hours=1), timedelta(minutes=5)))
    text = duckdb.select(hopping, "rides")
    assert (
        "UNNEST(RANGE(at_ms - (at_ms % 300000 + 300000) % 300000 + 300000, at_ms + 3600000 + 1, 300000))"
        in text
    )
    cumulating = replace(DEMAND, window=Cumulating(timedelta(hours=1), timedelta(minutes=5)))
    text = duckdb.select(cumulating, "rides")
    assert '("window_end" - 1) - (("window_end" - 1) % 3600000 + 3600000) % 3600000 AS "window_start"' in text


def test_the_lineage_is_not_changed_by_addresses_disorder_or_documentation() -> None:
    stream = fraud()
    slower = replace(stream, view=replace(stream.view, disorder=timedelta(minutes=4)))
    assert slower.lineage == stream.lineage
    here = Connection("127.0.0.1:1", "http://127.0.0.1:2")
    assert stream.compile(here).text != stream.compile(PLACEHOLDER).text
    assert replace(stream, patterns=()).lineage != stream.lineage
    assert (
        replace(stream, view=replace(stream.view, features=stream.view.features[1:])).lineage
        != stream.lineage
    )


def test_the_disorder_bound_is_an_argument() -> None:
    text = fraud().compile(PLACEHOLDER, disorder=timedelta(milliseconds=250_500)).text
    assert "`__at` - INTERVAL '0 00:04:10.500' DAY TO SECOND(3)" in text


@pytest.mark.parametrize(
    ("span", "literal"),
    [
        (timedelta(days=7), "INTERVAL '7' DAY"),
        (timedelta(hours=36), "INTERVAL '36' HOUR"),
        (timedelta(minutes=10), "INTERVAL '10' MINUTE"),
        (timedelta(minutes=101), "INTERVAL '0 01:41:00.000' DAY TO SECOND(3)"),
        (timedelta(milliseconds=50), "INTERVAL '0 00:00:00.050' DAY TO SECOND(3)"),
        (timedelta(0), "INTERVAL '0 00:00:00.000' DAY TO SECOND(3)"),
    ],
)
def test_intervals(span: timedelta, literal: str) -> None:
    assert interval(span) == literal


def test_a_view_over_another_record_than_the_topic_s_is_refused() -> None:
    with pytest.raises(DeclarationError, match="another record"):
        replace(fraud(), view=VIEW)


def test_a_source_that_the_broker_stamps_is_refused() -> None:
    stream = fraud()
    stamped = Topic(stream.source.name, stream.source.record, append_time=True)
    with pytest.raises(DeclarationError, match="stamped"):
        replace(stream, source=stamped)
