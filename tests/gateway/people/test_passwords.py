"""Passwords are hashed beside the event loop, so many at once and no more."""

import asyncio
import threading

import pytest

from core.errors import QueueFull, Rejected
from core.people_settings import People
from gateway.people.passwords import Passwords, checked, hasher

CHEAP = People(hash_memory_kib=64, hash_passes=1, hash_threads=1, hash_queue=1)


async def test_the_loop_goes_on_and_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, go, threads = Passwords(CHEAP), threading.Event(), set()

    def held(stored: str, password: str) -> bool:
        threads.add(threading.current_thread())
        return go.wait(60) and password == "right"

    monkeypatch.setattr(passwords, "_verify", held)
    first, second = (asyncio.create_task(passwords.verify("stored", "right")) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await passwords.verify("stored", "right")
    go.set()  # nobody would have, had the loop been held
    assert await asyncio.gather(first, second) == [True, True]
    assert threading.current_thread() not in threads
    passwords.close()


async def test_who_is_not_there_is_verified_too() -> None:
    passwords = Passwords(CHEAP)
    stored = hasher(CHEAP).hash("a good password")
    assert await passwords.verify(stored, "a good password")
    assert not await passwords.verify(stored, "a bad password")
    assert not await passwords.verify(None, "a good password")
    assert not await passwords.verify("no hash", "a good password")
    assert passwords.verifications == 4
    passwords.close()


def test_the_cost_is_what_the_settings_say() -> None:
    assert hasher(People()).hash("x").startswith("$argon2id$v=19$m=65536,t=3,p=1$")


@pytest.mark.parametrize(
    "password", ["", "short", "a" * 300, "aaaabbbbaaaabbbb", "my-name-is-ann", "line\nfeed-line"]
)
def test_a_password_that_is_none_is_refused(password: str) -> None:
    with pytest.raises(Rejected):
        checked(password, "ann@acme.example")


def test_any_other_is_taken() -> None:
    for good in ("correct horse battery", "pässwörter sind lang", "x9!kdi3-vvlsp"):
        assert checked(good, "bob") == good
