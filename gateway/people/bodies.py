"""What is sent to the routes of users, and what they answer. Nothing that is not named here is taken."""

from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from core.errors import Rejected
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.exchange import Request
from gateway.problems import Problem, UnsupportedMediaType

MOST_BYTES = 16 * 1024
B = TypeVar("B", bound=msgspec.Struct)


class LoginBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who logs in. The tenant is that of the user; none is taken from a body."""

    user: str
    password: str


class ChallengeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`code` is a one-time code, or one of the recovery codes."""

    challenge: str
    code: str


class RefreshBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refresh_token: str


class LogoutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    everywhere: bool = False


class PasswordBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password once more."""

    password: Annotated[str, msgspec.Meta(min_length=1)]


class CodeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: Annotated[str, msgspec.Meta(min_length=1)]


class TokensAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The refresh token counts once: the answer to its use brings the next one."""

    access_token: str
    refresh_token: str
    expires_in: int
    session: str
    token_type: Literal["Bearer"] = "Bearer"


class ChallengeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The password was right; the second factor is asked for."""

    challenge: str
    expires_in: int
    methods: list[Literal["totp", "recovery_code"]]


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    current: bool
    began_at: datetime
    refreshed_at: datetime
    address: str
    agent: str


class SessionsAnswer(msgspec.Struct, frozen=True):
    """The newest first."""

    sessions: list[SessionAnswer]


class OfferedFactorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A second factor that counts once it is confirmed. `address` is for the picture that an authenticator
    app reads."""

    secret: str
    address: str


class RecoveryCodesAnswer(msgspec.Struct, frozen=True):
    """Shown this once. Each counts once in place of a code."""

    recovery_codes: list[str]


class WrongCode(Problem, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document with the next challenge."""

    challenge: str = ""
    attempts_left: int = msgspec.field(default=-1)


async def read(request: Request, kind: type[B], *, optional: bool = False) -> B:
    """The body. Raises UnsupportedMediaType, TooLarge, Malformed, and Rejected where it is of another
    shape."""
    if optional and request.headers.get("content-length", "0") == "0":
        return kind()
    if content_type(request) != JSON:
        raise UnsupportedMediaType("one at a time", mend=f"send {JSON}")
    raw = await request.body(MOST_BYTES)
    strict_json.check(raw)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        reason, _, place = str(error).partition(" - at ")
        raise Rejected(
            "no valid request",
            fields={_pointer(place): reason[:200]},
            mend=f"send {fields} and nothing else",
            code="invalid_request",
        ) from None


def _pointer(place: str) -> str:
    """msgspec's `$.user` as a JSON pointer."""
    return place.strip("`").removeprefix("$").replace(".", "/")
