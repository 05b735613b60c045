"""Bearer tokens: what makes one good, everything that makes it bad, and the issuer's keys as they change."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from core.clock import ManualClock
from core.errors import Denied, Unavailable
from core.settings import Issuer
from gateway.issuer_keys import AGAIN_S, FRESH_S, GRACE_S, MOST_BYTES, IssuerKeys, over_http
from gateway.keyring import Keyring
from gateway.principals import EVENTS_WRITE, FEATURES_READ
from gateway.tokens import Tokens
from tests.gateway.issuing import (
    AT,
    AUDIENCE,
    CLAIMS,
    EC_KEY,
    ED_KEY,
    KEYS,
    NAME,
    OTHER_RSA_KEY,
    RSA_KEY,
    SETTINGS,
    document,
    encoded,
    jwk,
    token,
    unsigned,
    with_claims,
)
from tests.gateway.samples import NOW, KeysInMemory


class World:
    """An issuer whose document can change or be away, and who checks its tokens."""

    def __init__(self, settings: Issuer = SETTINGS) -> None:
        self.clock = ManualClock(NOW)
        self.document = document(*KEYS)
        self.away = False
        self.fetched = 0
        self.keys = IssuerKeys(self._fetch, clock=self.clock)
        self.tokens = Tokens(settings, self.keys, clock=self.clock)

    async def _fetch(self) -> bytes:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("the issuer is away")
        return self.document

    async def denied(self, text: str) -> bool:
        try:
            await self.tokens.check(text)
        except Denied:
            return True
        return False


@pytest.mark.parametrize(
    "text",
    [
        token(),
        token(EC_KEY, "ec", "ES256"),
        token(ED_KEY, "ed", "EdDSA"),
        token(aud=["elsewhere", AUDIENCE]),
        token(scope=["events:write", "features:read", 5]),
        token(header={"typ": "at+jwt"}),
        token(nbf=AT + 30, iat=AT + 30),
        token(exp=AT - 29),
        token(header={"jku": "https://evil.example/keys", "jwk": jwk(OTHER_RSA_KEY, "rsa")}),
    ],
    ids=[
        *("RS256", "ES256", "EdDSA", "one audience of two", "scopes", "a token for access"),
        *("from a clock ahead", "to a clock behind", "with a key of its own"),
    ],
)
async def test_a_good_token_gives_its_principal_and_is_verified_once(text: str) -> None:
    world = World()
    principal = await world.tokens.check(text)
    assert (principal.tenant, principal.credential) == ("acme", "token:user-7")
    assert principal.scopes == {EVENTS_WRITE, FEATURES_READ}
    assert await world.tokens.check(text) is principal
    assert world.fetched == 1


PUBLIC_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hmac_with_the_public_key() -> str:
    """The classic: the issuer's public key taken as the secret of a symmetric signature."""
    parts = ({"alg": "HS256", "typ": "JWT", "kid": "rsa"}, CLAIMS)
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{encoded(hmac.new(PUBLIC_PEM, signed.encode(), hashlib.sha256).digest())}"


FORGED = {
    "no algorithm": unsigned("none"),
    "no algorithm, other letters": unsigned("NoNe"),
    "no signature": unsigned("RS256") + "",
    "empty signature": token().rpartition(".")[0] + ".",
    "the public key as a secret": hmac_with_the_public_key(),
    "another's key under a good name": token(OTHER_RSA_KEY),
    "another's key under a name of its own": token(OTHER_RSA_KEY, "mine"),
    "a key that the token brings": token(OTHER_RSA_KEY, header={"jwk": jwk(OTHER_RSA_KEY, "rsa")}),
    "another tenant over the same signature": with_claims(token(), tenant="other"),
    "an algorithm that is not set": token(algorithm="RS384"),
    "an algorithm of another kind of key": token(EC_KEY, "rsa", "ES256"),
    "no key named where there are several": token(id=None),
    "a key's name that is no text": token(header={"kid": ""}),
    "critical extensions": token(header={"crit": ["exp"]}),
    "another type": token(header={"typ": "dpop+jwt"}),
    "expired": token(exp=AT - 30),
    "long expired": token(exp=1),
    "no expiry": token(exp=None),
    "an expiry that is no number": token(exp="2999-01-01"),
    "an expiry beyond time": token(exp=10**30),
    "a negative expiry": token(exp=-1),
    "an expiry that is true": token(exp=True),
    "not yet": token(nbf=AT + 31),
    "from the future": token(iat=AT + 31),
    "a beginning that is no number": token(nbf="now"),
    "another issuer": token(iss="https://issuer.example"),
    "no issuer": token(iss=None),
    "another audience": token(aud="elsewhere"),
    "no audience": token(aud=None),
    "no subject": token(sub=None),
    "a subject that is no name": token(sub="a b\r\n"),
    "no tenant": token(tenant=None),
    "a tenant that is no text": token(tenant=["acme"]),
    "a tenant that is no name": token(tenant="acme|other"),
    "too long": token(note="x" * 9_000),
    "two parts": "a.b",
    "five parts": "a.b.c.d.e",
    "no base64": "a.b.%",
    "no JSON": ".".join(encoded(b"nonsense") for _ in range(3)),
    "a header that is a list": ".".join((encoded(b"[]"), encoded(b"{}"), encoded(b"x"))),
    "endless nesting": ".".join((encoded(b"[" * 2_000), encoded(b"{}"), encoded(b"x"))),
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
async def test_what_is_wrong_is_denied_and_in_the_same_words(text: str) -> None:
    world = World()
    with pytest.raises(Denied) as caught:
        await world.tokens.check(text)
    with pytest.raises(Denied) as other:
        await Keyring(KeysInMemory(), clock=world.clock).check("nonsense")
    assert str(caught.value) == str(other.value)
    assert not await world.denied(token()), "the next good one is taken"


async def test_the_only_key_needs_no_name() -> None:
    world = World()
    world.document = document(jwk(RSA_KEY, "only"))
    assert not await world.denied(token(id=None))
    assert await world.denied(token(OTHER_RSA_KEY, id=None))


async def test_a_token_is_over_when_it_expires_though_it_was_remembered() -> None:
    world = World()
    text = token(exp=AT + 10)
    assert not await world.denied(text)
    world.clock.advance(timedelta(seconds=39.9))
    assert not await world.denied(text)
    world.clock.advance(timedelta(seconds=0.1))
    assert await world.denied(text)


async def test_a_new_key_is_asked_for_once_and_then_used() -> None:
    world = World()
    assert not await world.denied(token())
    rotated = token(OTHER_RSA_KEY, "rsa-2")
    assert await world.denied(rotated), "it was asked a moment ago"
    world.document = document(*KEYS, jwk(OTHER_RSA_KEY, "rsa-2"))
    world.clock.advance(timedelta(seconds=AGAIN_S))
    assert not await world.denied(rotated)
    assert world.fetched == 2


async def test_names_that_do_not_exist_make_nobody_ask_more_often() -> None:
    world = World()
    for number in range(50):
        assert await world.denied(token(OTHER_RSA_KEY, f"made-up-{number}"))
    assert world.fetched == 1


async def test_a_withdrawn_key_ends_its_tokens_and_their_watches() -> None:
    world = World()
    keyring = Keyring(KeysInMemory(), clock=world.clock, tokens=world.tokens)
    text, kept, told = token(), token(EC_KEY, "ec", "ES256"), list[str]()
    for one in (text, kept):
        keyring.watch(await keyring.check(one), lambda one=one: told.append(one))  # type: ignore[misc]
    world.document = document(jwk(EC_KEY, "ec"))
    world.clock.advance(timedelta(seconds=FRESH_S + 1))
    world.tokens.refresh()
    while world.keys.holds("rsa"):
        await asyncio.sleep(0)
    await keyring.refresh()
    assert told == [text]
    with pytest.raises(Denied):
        await keyring.check(text)
    await keyring.check(kept)
    world.clock.advance(timedelta(seconds=600))
    await keyring.refresh()
    assert told == [text, kept], "expired"


async def test_what_was_fetched_serves_while_the_issuer_is_away_but_not_for_ever() -> None:
    world = World()
    lasting = token(exp=AT + 100_000)
    assert not await world.denied(lasting)
    world.away = True
    world.clock.advance(timedelta(seconds=GRACE_S - 1))
    assert not await world.denied(token(exp=AT + 100_001))
    while world.fetched < 2:
        await asyncio.sleep(0)
    world.clock.advance(timedelta(seconds=AGAIN_S))
    with pytest.raises(Unavailable):
        await world.tokens.check(token(exp=AT + 100_002))
    world.away = False
    world.clock.advance(timedelta(seconds=AGAIN_S))
    assert not await world.denied(token(exp=AT + 100_002))


async def test_many_at_once_fetch_once_and_an_issuer_that_is_away_is_no_denial() -> None:
    world = World()
    world.away = True
    found = await asyncio.gather(*(world.tokens.check(token()) for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {Unavailable}
    assert world.fetched == 1
    with pytest.raises(Unavailable):
        await world.tokens.check(token())
    assert world.fetched == 1


@pytest.mark.parametrize(
    "given",
    [
        b"", b"nonsense", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1, null, "x"]}',
        document({"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}), document(jwk(RSA_KEY, "rsa", use="enc")),
    ],
    ids=range(9),
)  # fmt: skip
async def test_a_document_without_keys_is_no_answer(given: bytes) -> None:
    world = World()
    world.document = given
    with pytest.raises(Unavailable):
        await world.tokens.check(token())


async def test_a_key_that_is_damaged_denies_its_tokens_and_no_others() -> None:
    world = World()
    world.document = document(jwk(RSA_KEY, "rsa", n="AQAB"), jwk(EC_KEY, "ec", x="!"), jwk(ED_KEY, "ed"))
    assert await world.denied(token())
    assert await world.denied(token(EC_KEY, "ec", "ES256"))
    assert not await world.denied(token(ED_KEY, "ed", "EdDSA"))


@pytest.mark.parametrize(
    "given",
    [
        {"name": NAME},
        {"name": NAME, "jwks": "http://issuer.example/keys", "audience": "a"},
        {"name": NAME, "jwks": "file:///etc/passwd", "audience": "a"},
        {"name": NAME, "jwks": "https://issuer.example/keys", "audience": "a", "algorithms": ()},
        {"name": NAME, "jwks": "https://issuer.example/keys", "audience": "a", "algorithms": ("none",)},
        {"name": NAME, "jwks": "https://issuer.example/keys", "audience": "a", "algorithms": ("HS256",)},
    ],
)
def test_settings_that_are_not_safe_do_not_start(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Issuer(**given)


@pytest.fixture
async def issuer() -> AsyncIterator[Callable[[str], str]]:
    """An HTTP server whose paths answer each in another way; the addresses of them."""

    async def answer(request: web.Request) -> web.StreamResponse:
        what = request.match_info["what"]
        if what == "good":
            return web.Response(body=document(*KEYS))
        if what == "elsewhere":
            raise web.HTTPFound("/good")
        if what == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(2 * MOST_BYTES // 65_536):
                await response.write(b" " * 65_536)
            return response
        return web.Response(status=500)

    application = web.Application()
    application.router.add_get("/{what}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield lambda what: f"http://127.0.0.1:{port}/{what}"
    await runner.cleanup()


async def test_keys_come_over_http(issuer: Callable[[str], str]) -> None:
    async with httpx.AsyncClient() as client:
        keys = IssuerKeys(over_http(issuer("good"), client), clock=ManualClock(NOW))
        principal = await Tokens(SETTINGS, keys, clock=ManualClock(NOW)).check(token())
        assert principal.expires_at == datetime.fromtimestamp(AT + 630, UTC)


@pytest.mark.parametrize("what", ["elsewhere", "endless", "broken"])
async def test_redirects_too_much_and_failures_are_no_keys(issuer: Callable[[str], str], what: str) -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(Unavailable):
            await over_http(issuer(what), client)()


async def test_nobody_there_is_no_keys() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(Unavailable):
            await over_http("http://127.0.0.1:9/keys", client)()
