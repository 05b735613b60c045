"""A webhook is believed only with its signature, and soon after it was signed."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import Denied, Malformed, MillstreamError, TooLarge
from schemas.registry_webhook import MAX_BYTES, ModelNotice, read_webhook, sign

SECRET = "a secret of both sides"
NOW = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
BODY = json.dumps(
    {
        "entity": "model_version_alias",
        "action": "created",
        "timestamp": NOW.isoformat(),
        "data": {"name": "fraud", "alias": "champion", "version": "7"},
    }
).encode()


def headers(body: bytes, *, secret: str = SECRET, at: datetime = NOW) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    return {
        "X-MLflow-Delivery-Id": "d1",
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": sign(body, secret=secret, delivery="d1", timestamp=stamp),
    }


def read(given: dict[str, str], body: bytes) -> ModelNotice | None:
    return read_webhook(given, body, secret=SECRET, now=NOW)


def test_a_signed_notice_is_read() -> None:
    expected = ModelNotice("model_version_alias", "created", "fraud", "7", "champion")
    assert read(headers(BODY), BODY) == expected
    assert read({name.upper(): value for name, value in headers(BODY).items()}, BODY) == expected
    rotated = headers(BODY) | {"X-MLflow-Signature": f"v1,old {headers(BODY)['X-MLflow-Signature']}"}
    assert read(rotated, BODY) == expected


def test_the_signature_is_that_of_mlflow() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    assert _generate_hmac_signature(SECRET, "d1", "17", BODY.decode()) == sign(
        BODY, secret=SECRET, delivery="d1", timestamp="17"
    )


def test_what_is_not_about_models_is_passed_over() -> None:
    body = json.dumps({"entity": "prompt", "action": "created", "data": {"name": "p"}}).encode()
    assert read(headers(body), body) is None


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"X-MLflow-Signature": ""}, BODY),
        ({"X-MLflow-Signature": "v1,"}, BODY),
        ({"X-MLflow-Signature": "v1,ä"}, BODY),
        ({"X-MLflow-Delivery-Id": "d2"}, BODY),
        ({"X-MLflow-Timestamp": str(int(NOW.timestamp()) + 1)}, BODY),
        ({}, BODY.replace(b"fraud", b"other")),
        ({}, BODY + b" "),
        (headers(BODY, secret="another secret, as long"), BODY),
        (headers(BODY, at=NOW - timedelta(minutes=6)), BODY),
        (headers(BODY, at=NOW + timedelta(minutes=6)), BODY),
    ],
)
def test_an_unsigned_or_old_notice_is_denied(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(Denied):
        read(headers(BODY) | change, body)
    with pytest.raises(Denied):
        read({}, BODY)


@pytest.mark.parametrize("stamp", ["", "soon", "-1", "1e9", "9" * 400, "٣"])
def test_a_signed_timestamp_that_is_none_is_denied(stamp: str) -> None:
    signature = sign(BODY, secret=SECRET, delivery="d1", timestamp=stamp)
    given = {"x-mlflow-delivery-id": "d1", "x-mlflow-timestamp": stamp, "x-mlflow-signature": signature}
    with pytest.raises(Denied):
        read(given, BODY)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", Malformed),
        (b"[]", Malformed),
        (b"\xff", Malformed),
        (b'{"entity": "model_version", "action": "created"}', Malformed),
        (b'{"entity": "model_version", "action": "created", "data": {"name": 7}}', Malformed),
        (b" " * (MAX_BYTES + 1), TooLarge),
    ],
)
def test_signed_rubbish_is_malformed(body: bytes, error: type[MillstreamError]) -> None:
    with pytest.raises(error):
        read(headers(body), body)
