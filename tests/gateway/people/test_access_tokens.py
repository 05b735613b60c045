"""Access tokens: every one that is not ours, not good or not any more is refused, in the stated order."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from core.errors import Denied, StackError, Unavailable
from gateway.people.signing import new_key
from gateway.people.users import UserState
from gateway.people.vault import Vault
from tests.gateway import issuing
from tests.gateway.people.forging import SESSION, USER, Forge, unsigned
from tests.gateway.samples import NOW

AT = int(NOW.timestamp())


async def code_of(forge: Forge, text: str) -> str:
    with pytest.raises(Denied) as caught:
        await forge.tokens.check(text)
    return caught.value.code


async def test_a_token_of_ours_is_its_user() -> None:
    forge = Forge()
    principal = await forge.tokens.check(await forge.issue())
    assert (principal.tenant, principal.credential, principal.user) == ("acme", "user:u1", USER)
    assert (principal.roles, principal.session, principal.scopes) == ({"viewer"}, SESSION, frozenset())


async def _public_as_secret(forge: Forge) -> str:
    """Signed with the published key, as if that were a secret of HS256 (RFC 8725, section 2.1)."""
    id, private = await forge.keys.signer()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = (await forge.issue()).split(".")[1]
    head = issuing.encoded(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": id}).encode())
    signed = f"{head}.{claims}"
    return f"{signed}.{issuing.encoded(hmac.digest(public, signed.encode(), 'sha256'))}"


async def _misnamed(forge: Forge) -> str:
    """Signed as ours are, under a header that names another algorithm."""
    id, private = await forge.keys.signer()
    head = issuing.encoded(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": id}).encode())
    signed = f"{head}.{(await forge.issue()).split('.')[1]}"
    return f"{signed}.{issuing.encoded(private.sign(signed.encode()))}"


async def _other_claims(forge: Forge) -> str:
    head, _, signature = (await forge.issue()).split(".")
    other = (await forge.token(tenant="other", roles=["admin"])).split(".")[1]
    return f"{head}.{other}.{signature}"


async def _pointing(forge: Forge) -> str:
    key = issuing.jwk(issuing.ED_KEY, "theirs")
    header = {"kid": "theirs", "jwk": key, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}
    return await forge.token(key=issuing.ED_KEY, header=header)


Made = Callable[[Forge], Awaitable[str]]
BAD: dict[str, Made] = {
    "no algorithm": lambda forge: _of(forge, unsigned),
    "the public key as a secret": _public_as_secret,
    "another algorithm's name": _misnamed,
    "another key": lambda forge: forge.token(key=Ed25519PrivateKey.generate()),
    "a key of another kind": lambda forge: forge.token(key=issuing.RSA_KEY, algorithm="RS256"),
    "a key that it brings along": _pointing,
    "a key that nobody has": lambda forge: forge.token(header={"kid": "absent"}),
    "no key": lambda forge: forge.token(header={"kid": None}),
    "another issuer": lambda forge: forge.token(iss="https://elsewhere.example/"),
    "no issuer": lambda forge: forge.token(iss=None),
    "another audience": lambda forge: forge.token(aud="elsewhere"),
    "no audience": lambda forge: forge.token(aud=None),
    "not valid yet": lambda forge: forge.token(iat=AT + 6),
    "no end": lambda forge: forge.token(exp=None),
    "an end that is no time": lambda forge: forge.token(exp="soon"),
    "an end beyond all time": lambda forge: forge.token(exp=10**30),
    "no session": lambda forge: forge.token(sid=None),
    "a session that is none": lambda forge: forge.token(sid=["a"]),
    "no user": lambda forge: forge.token(sub="u1"),
    "another user": lambda forge: forge.token(sub="user:u2"),
    "another tenant": lambda forge: forge.token(tenant="other"),
    "no tenant": lambda forge: forge.token(tenant=None),
    "other claims": _other_claims,
    "an identity token": lambda forge: forge.token(header={"typ": "JWT"}),
    "a critical extension": lambda forge: forge.token(header={"crit": ["exp"]}),
    "no signature": lambda forge: _of(forge, lambda text: text.rpartition(".")[0] + "."),
    "half of it": lambda forge: _of(forge, lambda text: text[: len(text) // 2]),
    "ten thousand letters": lambda forge: _of(forge, lambda text: text + "a" * 10_000),
}


async def _of(forge: Forge, change: Callable[[str], str]) -> str:
    return change(await forge.issue())


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_token_is_refused_and_not_told_why(what: str) -> None:
    forge = Forge()
    text = await BAD[what](forge)
    assert await code_of(forge, text) == "unauthenticated"
    assert await code_of(forge, text) == "unauthenticated"
    assert (await forge.tokens.check(await forge.issue())).tenant == "acme"


async def test_one_that_has_expired_says_so_after_its_clocks_may_differ() -> None:
    forge = Forge(access_s=600, skew_s=5)
    text = await forge.issue()
    forge.clock.advance(timedelta(seconds=604))
    assert (await forge.tokens.check(text)).user == USER
    forge.clock.advance(timedelta(seconds=1))
    assert await code_of(forge, text) == "token_expired"


async def test_only_a_token_that_was_good_is_told_that_it_has_expired() -> None:
    forge = Forge()
    forged = await forge.token(exp=AT - 600, iat=AT - 1200, key=Ed25519PrivateKey.generate())
    assert await code_of(forge, forged) == "unauthenticated"
    ended = await forge.token(exp=AT - 600, iat=AT - 1200, sid="b" * 32)
    assert await code_of(forge, ended) == "token_expired"
    forge.revoked.add("b" * 32)
    assert await code_of(forge, ended) == "unauthenticated", "the blacklist comes before the time"


async def test_one_from_the_future_counts_within_the_skew() -> None:
    forge = Forge(skew_s=5)
    assert (await forge.tokens.check(await forge.token(iat=AT + 5))).user == USER


async def test_the_blacklist_comes_before_the_signature() -> None:
    forge = Forge()
    text = await forge.issue()
    forge.sessions.ended.append(SESSION)
    await forge.revoked.follow()
    reads = forge.stored.reads
    assert await code_of(forge, text) == "unauthenticated"
    assert forge.stored.reads == reads


async def test_a_session_that_is_ended_elsewhere_is_refused_within_a_second() -> None:
    forge = Forge()
    text = await forge.issue()
    await forge.tokens.check(text)
    forge.sessions.ended.append(SESSION)
    forge.clock.advance(timedelta(seconds=1))
    assert await code_of(forge, text) == "unauthenticated"
    forge.clock.advance(timedelta(seconds=200))
    assert await code_of(forge, text) == "unauthenticated"


async def test_roles_are_those_of_now_and_who_is_disabled_or_gone_is_out() -> None:
    forge = Forge()
    text = await forge.token(roles=["admin"])
    assert (await forge.tokens.check(text)).roles == {"viewer"}, "what a token says of roles gives nothing"
    forge.users.found[USER] = UserState("acme", frozenset({"operator"}), False)
    await forge.tokens.follow(["acme"])
    assert (await forge.tokens.check(text)).roles == {"operator"}
    forge.users.found[USER] = UserState("acme", frozenset(), True)
    await forge.tokens.follow(["acme"])
    assert await code_of(forge, text) == "unauthenticated"
    del forge.users.found[USER]
    await forge.tokens.follow(["acme"])
    assert await code_of(forge, text) == "unauthenticated"


async def test_a_key_that_is_withdrawn_takes_its_tokens_along() -> None:
    forge = Forge()
    text = await forge.issue()
    assert (await forge.tokens.check(text)).user == USER
    forge.stored.keys = [new_key(forge.vault, NOW)]
    await forge.tokens.follow(["*"])
    assert await code_of(forge, text) == "unauthenticated"
    assert (await forge.tokens.check(await forge.issue())).user == USER


async def test_a_rotation_has_an_overlap() -> None:
    forge = Forge()
    old = await forge.issue()
    first = forge.stored.keys[0]
    second = new_key(forge.vault, NOW + timedelta(seconds=60))
    forge.stored.keys.append(second)
    await forge.tokens.follow(["*"])
    assert {key["kid"] for key in forge.keys.document()["keys"]} == {first.id, second.id}
    assert (await forge.keys.signer())[0] == first.id, "published before it signs"
    forge.clock.advance(timedelta(seconds=60))
    assert (await forge.keys.signer())[0] == second.id
    assert (await forge.tokens.check(old)).user == USER


async def test_while_redis_is_away_the_last_known_blacklist_goes_on_for_the_grace() -> None:
    forge = Forge(grace_s=300)
    text = await forge.issue()
    await forge.tokens.check(text)
    forge.sessions.away = True
    forge.clock.advance(timedelta(seconds=299))
    principal = await forge.tokens.check(text)
    assert forge.tokens.stands(principal)
    forge.clock.advance(timedelta(seconds=2))
    with pytest.raises(Unavailable) as caught:
        await forge.tokens.check(text)
    assert caught.value.code == "keys_unavailable"
    assert not forge.tokens.stands(principal)


async def test_a_blacklist_that_was_never_read_is_no_empty_one() -> None:
    forge = Forge()
    text = await forge.issue()
    forge.sessions.away = True
    with pytest.raises(Unavailable):
        await forge.tokens.check(text)


async def test_while_postgresql_is_away_known_users_go_on_for_the_grace() -> None:
    forge = Forge(grace_s=300)
    text = await forge.issue()
    await forge.tokens.check(text)
    forge.users.away = True
    forge.clock.advance(timedelta(seconds=299))
    assert (await forge.tokens.check(text)).user == USER
    forge.clock.advance(timedelta(seconds=2))
    with pytest.raises(Unavailable) as caught:
        await forge.tokens.check(text)
    assert caught.value.code == "keys_unavailable"


async def test_many_unknown_users_at_once_are_bounded_and_one_is_asked_for_once() -> None:
    forge = Forge()
    text = await forge.issue()
    await asyncio.gather(*(forge.tokens.check(text) for _ in range(50)))
    assert forge.users.asked == 1


async def test_another_vault_reads_nothing_and_says_what_is_missing() -> None:
    sealed = Vault("a secret of thirty-two characters").seal(b"key", "k1")
    for other in (Vault(None), Vault("another secret of thirty-two chars")):
        with pytest.raises(StackError, match="cannot be read"):
            other.open(sealed, "k1")
    with pytest.raises(StackError):
        Vault("a secret of thirty-two characters").open(sealed, "k2")
    plain: Any = Vault(None).seal(b"key", "k1")
    assert Vault("a secret of thirty-two characters").open(plain, "k1") == b"key"
