"""Keys: their text, and the check at the door with its cache."""

import string
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import Denied, Unavailable
from gateway.keyring import GRACE_S, Keyring
from gateway.keys import Key, mint, parse
from gateway.principals import EVENTS_WRITE
from tests.gateway.samples import NOW, KeysInMemory


def a_key(**changes: object) -> tuple[str, Key]:
    text, id, hash = mint()
    given = {"tenant": "acme", "name": "", "scopes": frozenset({EVENTS_WRITE}), "created_at": NOW} | changes
    return text, Key(id=id, hash=hash, **given)  # type: ignore[arg-type]


def test_a_key_has_its_parts_and_never_comes_twice() -> None:
    made = {mint()[0] for _ in range(100)}
    assert len(made) == 100
    text, id, hash = mint()
    assert text.startswith(f"ms_{id}_")
    assert parse(text) == (id, hash)


@given(st.integers(0, 65), st.sampled_from(string.ascii_letters + string.digits + "_- "))
def test_a_mistyped_key_is_recognised_without_asking(at: int, character: str) -> None:
    text = mint()[0]
    changed = text[:at] + character + text[at + 1 :]
    if changed != text:
        assert parse(changed) is None


@given(st.text(max_size=100))
def test_no_other_text_is_a_key(text: str) -> None:
    assert parse(text) is None


async def test_a_good_key_gives_its_principal_and_is_asked_for_once() -> None:
    text, key = a_key()
    source = KeysInMemory(key)
    keyring = Keyring(source, clock=ManualClock(NOW))
    for _ in range(5):
        principal = await keyring.check(text)
    assert (principal.tenant, principal.credential) == ("acme", key.id)
    assert principal.scopes == {EVENTS_WRITE}
    assert source.asked == 1


@pytest.mark.parametrize("text", [None, "", "ms_", "nonsense", "ms_" + "a" * 70])
async def test_no_key_is_denied_without_asking(text: str | None) -> None:
    source = KeysInMemory()
    with pytest.raises(Denied):
        await Keyring(source, clock=ManualClock(NOW)).check(text)
    assert source.asked == 0


async def test_an_unknown_key_and_a_wrong_secret_are_denied_alike() -> None:
    _, key = a_key()
    other, wrong = a_key()
    keyring = Keyring(KeysInMemory(key), clock=ManualClock(NOW))
    with pytest.raises(Denied) as unknown:
        await keyring.check(other)
    swapped = Keyring(KeysInMemory(Key(**{**wrong.__dict__, "hash": key.hash})), clock=ManualClock(NOW))
    with pytest.raises(Denied) as mismatch:
        await swapped.check(other)
    assert str(unknown.value) == str(mismatch.value)


async def test_unknown_keys_are_not_asked_for_at_every_request() -> None:
    text, _ = a_key()
    clock, source = ManualClock(NOW), KeysInMemory()
    keyring = Keyring(source, clock=clock)
    for _ in range(5):
        with pytest.raises(Denied):
            await keyring.check(text)
    assert source.asked == 1
    clock.advance(timedelta(seconds=1.5))
    with pytest.raises(Denied):
        await keyring.check(text)
    assert source.asked == 2


async def test_a_key_is_over_at_its_expiry() -> None:
    text, key = a_key(expires_at=NOW + timedelta(seconds=10))
    clock = ManualClock(NOW)
    keyring = Keyring(KeysInMemory(key), clock=clock)
    clock.advance(timedelta(seconds=9.9))
    await keyring.check(text)
    clock.advance(timedelta(seconds=0.1))
    with pytest.raises(Denied):
        await keyring.check(text)


async def test_a_revocation_is_followed_at_the_next_refresh_and_told_once_to_each_who_watches() -> None:
    text, key = a_key()
    source, told = KeysInMemory(key), list[str]()
    keyring = Keyring(source, clock=ManualClock(NOW))
    principal = await keyring.check(text)
    keyring.watch(principal, lambda: told.append("one"))
    gone = keyring.watch(principal, lambda: told.append("gone"))
    keyring.watch(principal, lambda: told.append("two"))
    gone.close()
    await keyring.refresh()
    assert told == []
    source.keys[key.id] = Key(**{**key.__dict__, "revoked_at": NOW})
    await keyring.refresh()
    with pytest.raises(Denied):
        await keyring.check(text)
    assert sorted(told) == ["one", "two"]
    await keyring.refresh()
    assert len(told) == 2


async def test_a_watched_key_is_followed_though_the_cache_has_forgotten_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.keyring.CACHED", 1)
    (text, key), (other, another) = a_key(), a_key()
    source, told = KeysInMemory(key, another), list[str]()
    keyring = Keyring(source, clock=ManualClock(NOW))
    keyring.watch(await keyring.check(text), lambda: told.append("over"))
    await keyring.check(other)
    source.keys[key.id] = Key(**{**key.__dict__, "revoked_at": NOW})
    await keyring.refresh()
    assert told == ["over"]


async def test_an_expiry_is_told_while_the_database_is_away_and_so_is_what_cannot_be_confirmed() -> None:
    (text, key), (other, another) = a_key(expires_at=NOW + timedelta(seconds=10)), a_key()
    clock, source, told = ManualClock(NOW), KeysInMemory(key, another), list[str]()
    keyring = Keyring(source, clock=clock)
    keyring.watch(await keyring.check(text), lambda: told.append("expired"))
    keyring.watch(await keyring.check(other), lambda: told.append("unconfirmed"))
    source.away = True
    for wait, expected in (
        (9, []),
        (1, ["expired"]),
        (GRACE_S - 10, ["expired"]),
        (1, ["expired", "unconfirmed"]),
    ):
        clock.advance(timedelta(seconds=wait))
        with pytest.raises(Unavailable):
            await keyring.refresh()
        assert told == expected


async def test_when_a_key_was_used_is_told_now_and_then_and_kept_over_an_outage() -> None:
    text, key = a_key()
    clock, source = ManualClock(NOW), KeysInMemory(key)
    keyring = Keyring(source, clock=clock)
    keyring.start()
    await keyring.check(text)
    clock.advance(timedelta(seconds=3))
    await keyring.check(text)
    await keyring.close()
    assert source.last_used == {key.id: NOW + timedelta(seconds=3)}
    source.away = True
    await keyring.check(text)
    keyring.start()
    await keyring.close()
    source.away, source.last_used = False, {}
    keyring.start()
    await keyring.close()
    assert source.last_used == {key.id: NOW + timedelta(seconds=3)}


async def test_a_deleted_key_is_denied_after_the_next_refresh() -> None:
    text, key = a_key()
    source = KeysInMemory(key)
    keyring = Keyring(source, clock=ManualClock(NOW))
    await keyring.check(text)
    source.keys.clear()
    await keyring.refresh()
    with pytest.raises(Denied):
        await keyring.check(text)


async def test_a_cached_key_works_on_while_the_database_is_away_but_not_for_ever() -> None:
    text, key = a_key()
    clock, source = ManualClock(NOW), KeysInMemory(key)
    keyring = Keyring(source, clock=clock)
    await keyring.check(text)
    source.away = True
    with pytest.raises(Unavailable):
        await keyring.refresh()
    clock.advance(timedelta(seconds=GRACE_S))
    await keyring.check(text)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unavailable):
        await keyring.check(text)
    source.away = False
    await keyring.check(text)


async def test_a_new_key_while_the_database_is_away_is_no_denial() -> None:
    text, key = a_key()
    source = KeysInMemory(key)
    source.away = True
    with pytest.raises(Unavailable):
        await Keyring(source, clock=ManualClock(NOW)).check(text)
