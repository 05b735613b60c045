"""The header `Idempotency-Key`: what a client calls a request, so that a repeat of it is known as one."""

from core.errors import InvalidInput
from gateway.exchange import Request
from gateway.intake import ID_SHAPE


def key_of_request(request: Request) -> str | None:
    """The key, or None where there is none. Raises InvalidInput for one that is no id."""
    key = request.headers.get("idempotency-key")
    if key is not None and not ID_SHAPE.fullmatch(key):
        raise InvalidInput(
            "the Idempotency-Key is none", code="invalid_key",
            mend="1 to 128 letters, digits or any of . _ : ~ @ + = -",
        )  # fmt: skip
    return key
