"""What a Faust agent is not started for."""

import ssl
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.errors import DeclarationError
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, late_topic
from features.view import FeatureView
from jobs.on_faust.job import FaustJob
from jobs.on_faust.security import credentials
from schemas.topic import Topic
from tests.jobs.on_faust.trips import MINUTE, TRIPS, job


def refused(view: FeatureView, **more: Any) -> str:
    given = job("trips")
    with pytest.raises(DeclarationError) as raised:
        FaustJob(**{**vars(given), "view": view, **more})
    return str(raised.value)


def test_shipped_views_are_refused_with_their_reasons() -> None:
    assert "card_activity v1: it has a row per event" in refused(CARD_ACTIVITY)
    assert "rolling_avg is derived from other features" in refused(REGIONAL_DEMAND)


def test_topics_that_do_not_fit_are_refused() -> None:
    kept: Any = {"partitions": 3, "retention": timedelta(days=1)}
    other = replace(TRIPS, features=TRIPS.features[:2])
    assert "another record" in refused(TRIPS, rows=features_topic("trips", other, **kept))
    assert "another record" in refused(TRIPS, late=features_topic("trips", TRIPS, **kept))
    few = late_topic("trips", TRIPS, partitions=2, retention=timedelta(days=1))
    assert "has 2 partitions" in refused(TRIPS, late=few)
    stamped = Topic("trips.trips.events.v1", TRIPS.source, partitions=3, append_time=True)
    assert "stamped by the broker" in refused(TRIPS, source=stamped)
    assert "remember ids for at least" in refused(TRIPS, horizon=MINUTE)


def test_the_name_is_that_of_pipeline_view_and_version() -> None:
    assert job("trips").name == "millstream-trips-faust-trips-v1"


def test_security_is_translated_or_refused() -> None:
    assert credentials({}) is None
    tls = credentials({"security.protocol": "SSL"})
    assert isinstance(tls.context, ssl.SSLContext)
    assert tls.context.verify_mode == ssl.CERT_REQUIRED
    given = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u", "sasl.password": "p"}
    both = credentials({"security.protocol": "sasl_ssl", **given})
    assert (both.username, both.password, both.mechanism.value) == ("u", "p", "SCRAM-SHA-512")
    assert both.ssl_context is not None
    plain = credentials({"security.protocol": "SASL_PLAINTEXT", **given})
    assert plain.ssl_context is None
    for bad in (
        {"ssl.endpoint.identification.algorithm": "none"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "MAGIC"},
    ):
        with pytest.raises(DeclarationError, match="Faust cannot connect with"):
            credentials(bad)
