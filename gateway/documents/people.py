"""Operations on users' logins, sessions and second factors, and the keys that verify access tokens."""

from gateway.documents.operations import (
    JSON,
    Answer,
    Codes,
    Operation,
    Operations,
    Parameter,
    json_answer,
    merged,
)
from gateway.documents.problems import JSON_BODY, STRICT_JSON
from gateway.documents.reading import SEGMENT
from gateway.documents.schemas import STRING, Schemas, array, record
from gateway.documents.served import Served
from gateway.people import bodies
from gateway.people.wiring import AUTH, JWKS

_TAG = "Users"
_BODY: Codes = merged(JSON_BODY, STRICT_JSON, {422: ("invalid_request",)})
_STORES: Codes = {503: ("database_unavailable", "sessions_unavailable")}


def people(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    session, factor = f"{AUTH}/sessions/{{id}}", f"{AUTH}/second-factor"
    return {
        f"POST {AUTH}/login": {f"{AUTH}/login": _login(schemas)},
        f"POST {AUTH}/challenge": {f"{AUTH}/challenge": _challenge(schemas)},
        f"POST {AUTH}/refresh": {f"{AUTH}/refresh": _refresh(schemas)},
        f"POST {AUTH}/logout": {f"{AUTH}/logout": _logout(schemas)},
        f"GET {AUTH}/sessions": {f"{AUTH}/sessions": _sessions(schemas)},
        f"DELETE {session}": {session: _end()},
        f"POST {factor}": {factor: _offer(schemas)},
        f"POST {factor}/confirm": {f"{factor}/confirm": _confirm(schemas)},
        f"GET {JWKS}": {JWKS: _jwks()},
    }


def _login(schemas: Schemas) -> Operation:
    both = {"oneOf": [schemas.of(bodies.TokensAnswer), schemas.of(bodies.ChallengeAnswer)]}
    return Operation(
        summary="Log in",
        tag=_TAG,
        description=(
            "Tokens, or a challenge where the user has a second factor. A user that does not exist, one that "
            "is disabled and a wrong password are one answer. Attempts are limited by address and account."
        ),
        body={JSON: schemas.of(bodies.LoginBody)},
        answers={200: json_answer("The tokens, or what is still to be answered.", both)},
        problems=merged(
            _BODY, _STORES, {401: ("login_failed",), 429: ("second_factor_paused",), 503: ("queue_full",)}
        ),
    )


def _challenge(schemas: Schemas) -> Operation:
    return Operation(
        summary="Answer the challenge of the second factor",
        tag=_TAG,
        description=(
            "With a one-time code or a recovery code. Each challenge is answered once: after a wrong code "
            "the problem has the next one in `challenge`, and after some of them there is a pause."
        ),
        body={JSON: schemas.of(bodies.ChallengeBody)},
        answers={200: json_answer("The tokens.", schemas.of(bodies.TokensAnswer))},
        problems=merged(
            _BODY, _STORES, {401: ("challenge_over", "wrong_code"), 429: ("second_factor_paused",)}
        ),
        differing={401: schemas.of(bodies.WrongCode)},
    )


def _refresh(schemas: Schemas) -> Operation:
    return Operation(
        summary="Go on with another access token",
        tag=_TAG,
        description=(
            "A refresh token counts once; the answer has the next one. One that was used before ends its "
            "session at once, whoever sends it."
        ),
        body={JSON: schemas.of(bodies.RefreshBody)},
        answers={200: json_answer("The next tokens.", schemas.of(bodies.TokensAnswer))},
        problems=merged(_BODY, _STORES, {401: ("refresh_refused",)}),
    )


def _logout(schemas: Schemas) -> Operation:
    return Operation(
        summary="Log out, here or everywhere",
        tag=_TAG,
        description="Every gateway refuses the tokens within a second, and closes the sockets.",
        body={JSON: schemas.of(bodies.LogoutBody)},
        optional_body=True,
        answers={204: Answer("It is over.")},
        problems=merged(_BODY, _STORES),
    )


def _sessions(schemas: Schemas) -> Operation:
    return Operation(
        summary="The caller's own sessions",
        tag=_TAG,
        answers={200: json_answer("The newest first.", schemas.of(bodies.SessionsAnswer))},
        problems=_STORES,
    )


def _end() -> Operation:
    return Operation(
        summary="End one of the caller's own sessions",
        tag=_TAG,
        path=(Parameter("id", "The session's id.", SEGMENT),),
        answers={204: Answer("It is over.")},
        problems=merged(_STORES, {404: ("not_found",)}),
    )


def _offer(schemas: Schemas) -> Operation:
    return Operation(
        summary="Ask for a second factor",
        tag=_TAG,
        description="It counts once a code of it was shown.",
        body={JSON: schemas.of(bodies.PasswordBody)},
        answers={200: json_answer("The secret, shown this once.", schemas.of(bodies.OfferedFactorAnswer))},
        problems=merged(
            _BODY, _STORES, {403: ("wrong_password",), 409: ("second_factor_there",), 503: ("queue_full",)}
        ),
    )


def _confirm(schemas: Schemas) -> Operation:
    return Operation(
        summary="Confirm the second factor with a code",
        tag=_TAG,
        body={JSON: schemas.of(bodies.CodeBody)},
        answers={
            200: json_answer("Ten codes for the day that it is lost.", schemas.of(bodies.RecoveryCodesAnswer))
        },
        problems=merged(
            _BODY,
            _STORES,
            {
                403: ("wrong_code",),
                409: ("no_second_factor_offered", "second_factor_there"),
                429: ("second_factor_paused",),
            },
        ),
    )


def _jwks() -> Operation:
    key = {"type": "object", "properties": {"kid": STRING, "kty": STRING, "crv": STRING, "x": STRING}}
    return Operation(
        summary="The keys that verify access tokens (RFC 7517)",
        tag=_TAG,
        answers={200: json_answer("The keys.", record({"keys": array(key)}), "Cache-Control")},
        problems={503: ("database_unavailable",)},
    )
