"""MLflow's signed webhooks: headers and body to what they are about.

MLflow signs `<delivery id>.<timestamp>.<body>` with HMAC-SHA256 and a secret that both sides have, as the
Standard Webhooks convention does. A notice says only where to look: whoever receives one asks the registry,
so a repeated or reordered delivery does no harm.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from core.clock import to_millis
from core.errors import Denied, Malformed, TooLarge
from core.structs import ready

SIGNATURE, TIMESTAMP, DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
MAX_BYTES = 256 * 1024
OLDEST = timedelta(minutes=5)
_ENTITIES = ("registered_model", "model_version", "model_version_alias", "model_version_tag")
_MOST_SIGNATURES = 8


class ModelNotice(msgspec.Struct, frozen=True):
    """Something of a model changed: `entity` (`model_version_alias`, ...) was `action` (`created`, ...)."""

    entity: str
    action: str
    name: str
    version: str | None = None
    alias: str | None = None


@ready
class _Data(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    version: str | None = None
    alias: str | None = None


@ready
class _Body(msgspec.Struct, frozen=True):
    entity: str
    action: str
    data: msgspec.Raw


def read_webhook(
    headers: Mapping[str, str], body: bytes, *, secret: str, now: datetime
) -> ModelNotice | None:
    """The notice of a delivery; None where it is about something else than models.

    Names of headers may be in any case; nothing unsigned is parsed. Raises Denied for a signature that is
    missing or wrong, or a timestamp more than five minutes from `now`; Malformed; TooLarge above 256 KiB.
    """
    if len(body) > MAX_BYTES:
        raise TooLarge(f"a webhook of {len(body)} bytes", mend=f"at most {MAX_BYTES}")
    given = {name.lower(): value for name, value in headers.items()}
    _verify(given, body, secret, now)
    try:
        said = msgspec.json.decode(body, type=_Body)
        if said.entity not in _ENTITIES:
            return None
        data = msgspec.json.decode(said.data, type=_Data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"no webhook of a model registry: {error}", mend="send MLflow's payload") from error
    return ModelNotice(said.entity, said.action, data.name, data.version, data.alias)


def sign(body: bytes, *, secret: str, delivery: str, timestamp: str) -> str:
    """The signature that belongs into the header."""
    content = b".".join((delivery.encode(), timestamp.encode(), body))
    made = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


def _verify(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> None:
    delivery, timestamp = headers.get(DELIVERY, ""), headers.get(TIMESTAMP, "")
    expected = sign(body, secret=secret, delivery=delivery, timestamp=timestamp).encode()
    offered = headers.get(SIGNATURE, "").split(" ")[:_MOST_SIGNATURES]
    if not any(hmac.compare_digest(expected, one.encode()) for one in offered):
        raise Denied("the webhook's signature is not ours", mend="give MLflow the secret of this side")
    # only now: an unsigned time says nothing
    if not delivery:
        raise Denied("the webhook has no delivery id", mend="send MLflow's headers")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise Denied(f"the webhook's timestamp {timestamp[:20]!r}", mend="send seconds since 1970")
    if abs(to_millis(now) - int(timestamp) * 1000) > OLDEST / timedelta(milliseconds=1):
        raise Denied("the webhook is too old", mend="set the clocks of both machines")
