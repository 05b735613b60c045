"""An issuer of tokens of the tests' own: keys of each kind, its JWKS, and tokens as good or as bad as
asked."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from core.settings import Issuer
from tests.gateway.samples import NOW

NAME, AUDIENCE = "https://issuer.example/", "millstream"
AT = int(NOW.timestamp())
CLAIMS: dict[str, Any] = {
    "iss": NAME, "aud": AUDIENCE, "sub": "user-7", "exp": AT + 600, "iat": AT, "tenant": "acme",
    "scope": "events:write features:read made:up",
}  # fmt: skip
SETTINGS = Issuer(name=NAME, jwks="https://issuer.example/keys", audience=AUDIENCE)

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, id: str, **more: Any) -> dict[str, Any]:
    """The public half, as a JWKS has it."""
    public = key.public_key()
    kind: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else (
        ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else OKPAlgorithm
    )  # fmt: skip
    found: dict[str, Any] = json.loads(kind.to_jwk(public))
    found.pop("key_ops", None)
    return found | {"kid": id, "use": "sig"} | more


KEYS = [jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec"), jwk(ED_KEY, "ed")]


def document(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def token(
    key: Any = RSA_KEY, id: str | None = "rsa", algorithm: str = "RS256", header: Any = None, **claims: Any
) -> str:
    """A token; a claim that is None is left out."""
    given = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    named = {} if id is None else {"kid": id}
    return jwt.encode(given, key, algorithm=algorithm, headers=named | (header or {}))


def unsigned(algorithm: str) -> str:
    """A token that says so, with an empty signature or one of nothing."""
    parts = ({"alg": algorithm, "typ": "JWT", "kid": "rsa"}, CLAIMS)
    return ".".join(encoded(json.dumps(part).encode()) for part in parts) + "."


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_claims(text: str, **claims: Any) -> str:
    """The same signature over other claims."""
    head, _, signature = text.split(".")
    return f"{head}.{encoded(json.dumps(CLAIMS | claims).encode())}.{signature}"
