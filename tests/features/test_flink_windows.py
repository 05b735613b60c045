"""Windowed views as Flink SQL: what is refused, what the text has to keep to, and the rows that come out.

What the SQL computes is seen on a real Flink, in `tests/jobs/on_flink/test_windows_on_flink.py`.
"""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from core.errors import DeclarationError
from features.compile.flink import PLACEHOLDER
from features.compile.flink_windows import WindowedStream, views
from features.feature_rows import feature_record, features_topic, late_topic, row_id
from features.view import (
    Count,
    Cumulating,
    Feature,
    FeatureView,
    First,
    Hopping,
    Last,
    Rolling,
    Sum,
    Tumbling,
    ago,
    feature,
    field,
    moving_average,
)
from schemas.avro import compile_schema
from schemas.keys import key_sql
from schemas.record import Record, record
from schemas.topic import Topic
from tests.features.rides import DRIVER, SECOND, Driver, Ride

DAY = timedelta(days=1)


def small(*features: Feature, **more: Any) -> FeatureView:
    given: dict[str, Any] = {
        "name": "city_rides", "version": 1, "source": Ride, "entity": "city", "disorder": SECOND,
        "window": Tumbling(10 * SECOND), "ttl": timedelta(minutes=2),
    }  # fmt: skip
    return FeatureView(**(given | more), features=features or (COUNT,))


COUNT = Feature("count", Count(), unit="rides", empty=0)


def stream(view: FeatureView, **more: Any) -> WindowedStream:
    kept: Any = {"partitions": 4, "retention": DAY}
    given: dict[str, Any] = {
        "source": Topic("rides.rides.events.v1", view.source, partitions=4),
        "rows": features_topic("rides", view, **kept),
        "late": late_topic("rides", view, **kept),
    }
    return WindowedStream(pipeline="rides", view=view, **(given | more))


def sql(view: FeatureView) -> str:
    return ";\n".join(views(view, "events", "__at", "__late"))


def test_a_rolling_view_is_refused() -> None:
    rolling = small(Feature("count", Count(over=DAY), unit="rides"), window=Rolling(), ttl=DAY)
    with pytest.raises(DeclarationError, match="a row per event"):
        views(rolling, "events", "__at", "__late")
    with pytest.raises(DeclarationError, match="a row per event"):
        feature_record(rolling)


DRIVERS = Topic("rides.drivers.events.v1", Driver, cleanup="compact")


def looking_up(*features: Feature, **more: Any) -> FeatureView:
    given: dict[str, Any] = {"lookups": (replace(DRIVER, topic=DRIVERS),)} | more
    return small(*(features or (COUNT, FEES)), **given)


FEES = Feature("fees", Sum("driver_of.fee"), unit="x", empty=0)


def test_a_lookup_that_no_stream_can_follow_is_refused_by_name() -> None:
    def refused(reason: str, **more: Any) -> None:
        with pytest.raises(DeclarationError, match=reason):
            sql(looking_up(lookups=(replace(DRIVER, **({"topic": DRIVERS} | more)),)))

    refused("looks up driver_of, a reference table that is on no topic", topic=None)
    refused("driver_of is not compacted", topic=replace(DRIVERS, cleanup="delete"))
    refused("another record than lookup driver_of", topic=replace(DRIVERS, record=Ride))
    refused("driver_of is by level, and topic .* has the newest row per id", on={"driver": "level"})
    refused("driver_of is by id, level, and", on={"driver": "id", "kind": "level"})
    rolling = small(
        Feature("count", Count(over=DAY), unit="rides"), window=Rolling(), ttl=DAY, lookups=(DRIVER,)
    )
    with pytest.raises(DeclarationError, match=r"a row per event.*; it looks up driver_of"):
        sql(rolling)


def test_a_lookup_is_a_left_join_by_tenant_and_key_at_processing_time() -> None:
    (joined,) = (text for text in sql(looking_up()).split(";\n") if "VIEW `looked_up`" in text)
    assert joined.endswith(
        "`driver_of`.`fee` AS `driver_of.fee`\nFROM `needed` AS `__event`\n"
        "LEFT JOIN `reference_driver_of` FOR SYSTEM_TIME AS OF `__event`.`__now` AS `driver_of`\n"
        "ON `__event`.`tenant` = `driver_of`.`tenant` AND `__event`.`driver` = `driver_of`.`id`"
    )
    assert "TUMBLE(TABLE `looked_up`" in sql(looking_up())


def test_events_without_a_looked_up_key_are_in_no_window() -> None:
    text = sql(looking_up(entity=("driver_of.level", "city")))
    assert "WHERE `driver_of`.`level` IS NOT NULL" in text
    assert "GROUP BY `tenant`, `driver_of.level`, `city`, `window_start`" in text


def test_late_events_are_keyed_without_the_lookup() -> None:
    of = looking_up(entity=("driver_of.level", "zone"))
    late = stream(of).compile(PLACEHOLDER).text.partition("INSERT INTO `late_events`")[2]
    assert late.startswith(f"\nSELECT\n  {key_sql('`tenant`', '`city`')} AS `__key`,")


def test_a_column_that_both_sides_have_is_the_event_s() -> None:
    text = sql(looking_up(COUNT, FEES, Feature("last", Last("kind"), unit="x")))
    (joined,) = (one for one in text.split(";\n") if "VIEW `looked_up`" in one)
    assert "`__event`.`tenant`" in joined
    assert "`driver_of`.`id` AS" not in joined
    assert "`__event`.`__order`" in joined


def test_the_bound_on_rows_changes_the_job_and_not_its_state() -> None:
    of = looking_up()
    (lookup,) = of.lookups
    more = replace(of, lookups=(replace(lookup, most_rows=7),))
    assert stream(of).lineage == stream(more).lineage
    assert "'most-rows' = '7'" in stream(more).compile(PLACEHOLDER).text
    moved = replace(DRIVERS, name="rides.drivers.events.v2")
    assert stream(of).lineage != stream(replace(of, lookups=(replace(lookup, topic=moved),))).lineage
    assert stream(of).references == (DRIVERS,)
    assert stream(small()).references == ()


def test_the_column_that_flink_adds_is_refused() -> None:
    with pytest.raises(DeclarationError, match="'window_time' is a column that Flink adds"):
        sql(small(Feature("window_time", Count(), unit="rides")))


@pytest.mark.parametrize(
    ("window", "function"),
    [
        (Tumbling(60 * SECOND), "TUMBLE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '1' MINUTE)"),
        (
            Hopping(20 * SECOND, 5 * SECOND),
            "HOP(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '5' SECOND, INTERVAL '20' SECOND)",
        ),
        (
            Cumulating(30 * SECOND, 10 * SECOND),
            "CUMULATE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '10' SECOND, INTERVAL '30' SECOND)",
        ),
    ],
)
def test_each_shape_is_its_window_function(window: Any, function: str) -> None:
    assert f"FROM TABLE({function})\nGROUP BY `tenant`, `city`, `window_start`" in sql(small(window=window))


def test_a_level_of_sql_has_one_over() -> None:
    text = sql(
        small(
            COUNT,
            Feature("a", ago("count", DAY) + moving_average("count", 30 * SECOND), unit="x", empty=0),
            Feature("b", ago("a", 20 * SECOND) + moving_average("a", 20 * SECOND), unit="x"),
            Feature("c", ago("a", DAY) - ago("count", DAY), unit="x"),
        )
    )
    for statement in text.split(";\n"):
        assert statement.count("RANGE BETWEEN") <= 1
    spans = re.findall(r"RANGE BETWEEN (INTERVAL '[^']*' \w+)", text)
    # a level of derived features after the other, the longest OVER of each first
    assert [span.split("'")[1] for span in spans] == [
        "1", "0 00:00:29.999", "1", "20", "0 00:00:19.999"
    ]  # fmt: skip


def test_equal_functions_of_time_are_computed_once() -> None:
    text = sql(
        small(
            COUNT,
            Feature("a", feature("count") - ago("count", DAY), unit="x"),
            Feature("b", feature("count") / ago("count", DAY), unit="x"),
        )
    )
    assert text.count("FIRST_VALUE(`count`)") == 1


@pytest.mark.parametrize("value", ["a'b", "';\n;\nDROP TABLE events; --", "ü\\'`\"%|", "line\nand\r\ttab"])
def test_a_hostile_constant_stays_a_constant(value: str) -> None:
    given = small(
        Feature("count", Count(where=field("kind") == value), unit="rides"),
        Feature("first", First("kind"), unit="kind", empty=value),
    )
    text = sql(given)
    quoted = "'" + value.replace("'", "''") + "'"
    assert text.count(quoted) == 2
    assert value not in re.sub(r"'(?:[^']|'')*'", "", text), "outside of quotes"


def test_a_null_so_much_earlier_is_told_from_no_window() -> None:
    known = small(
        Feature("first", First("fare"), unit="x", empty=0), Feature("before", ago("first", DAY), unit="x")
    )
    unknown = small(Feature("first", First("fare"), unit="x"), Feature("before", ago("first", DAY), unit="x"))
    assert "IS NULL) OVER" not in sql(known)
    assert "AND NOT FIRST_VALUE(`first` IS NULL) OVER w" in sql(unknown)


def test_the_job_goes_by_its_view_and_not_by_its_disorder() -> None:
    of = small()
    assert stream(of).lineage == stream(replace(of, disorder=timedelta(hours=1))).lineage
    other = replace(of, window=Tumbling(20 * SECOND))
    assert stream(of).lineage != stream(other).lineage
    text = stream(of).compile(PLACEHOLDER, disorder=timedelta(0)).text
    assert "WATERMARK FOR `__at` AS `__at` - INTERVAL '0 00:00:00.001' DAY TO SECOND(3)" in text


def test_topics_that_do_not_fit_are_refused() -> None:
    of = small()
    with pytest.raises(DeclarationError, match=r"rides\.other\.features\.v1 has another record"):
        stream(of, rows=Topic("rides.other.features.v1", Ride))
    with pytest.raises(DeclarationError, match="has 2 partitions"):
        stream(of, late=late_topic("rides", of, partitions=2, retention=DAY))
    with pytest.raises(DeclarationError, match="stamped"):
        stream(of, source=Topic("rides.rides.events.v1", Ride, append_time=True))


def test_the_row_has_its_key_its_window_and_every_feature() -> None:
    of = small(
        COUNT,
        Feature("first", First("kind"), unit="kind"),
        Feature("was_shared", First("shared"), unit="x"),
        Feature("share", feature("count") / 2, unit="x"),
        entity=("city", "zone"),
    )
    topic = features_topic("rides", of, partitions=4, retention=DAY)
    assert topic.name == "rides.city_rides.features.v1"
    assert topic.record is not None
    schema = compile_schema(topic.record.spec())
    assert (schema["namespace"], schema["name"]) == ("millstream.tests", "CityRidesFeatures")
    types = {one["name"]: one["type"] for one in schema["fields"]}
    time = {"type": "long", "logicalType": "timestamp-millis"}
    assert json.dumps(types) == json.dumps(
        {
            "tenant": "string", "id": "string", "entity": "string", "city": "string", "zone": "string",
            "window_start": time, "window_end": time, "sequence": "long",
            "count": ["null", "long"], "first": ["null", "string"], "was_shared": ["null", "boolean"],
            "share": ["null", "double"],
        }
    )  # fmt: skip


def test_the_late_topic_has_the_events_as_they_were() -> None:
    topic = late_topic("rides", small(), partitions=4, retention=DAY)
    assert (topic.name, topic.record) == ("rides.city_rides.late.v1", Ride)


@record(entity="entity", time="at", namespace="millstream.tests")
class Named(Record, frozen=True, kw_only=True):
    entity: str
    sequence: str
    at: datetime


def test_a_name_that_every_row_has_is_refused() -> None:
    with pytest.raises(DeclarationError, match="'sequence' is there twice"):
        feature_record(small(source=Named, entity="sequence"))
    with pytest.raises(DeclarationError, match="'entity' is there twice"):
        feature_record(small(Feature("entity", Count(), unit="x")))
    with pytest.raises(DeclarationError, match="'entity' is there twice"):
        feature_record(small(source=Named, entity=("entity", "sequence")))
    names = feature_record(small(source=Named, entity="entity")).spec().names
    assert names == ("tenant", "id", "entity", "window_start", "window_end", "sequence", "count")


def test_the_id_names_the_window_in_utc() -> None:
    end = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert row_id("a|b", end, 0) == "a|b|2026-01-01 00:01:00.000|0"
    assert row_id("a|b", end.astimezone(timezone(timedelta(hours=5))), 3) == "a|b|2026-01-01 00:01:00.000|3"
