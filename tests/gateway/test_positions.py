"""Positions: ours come back as they were; anything else is garbage."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.settings import Gateway, Settings
from gateway.push.positions import Position, Signer, position_secret

SIGNER = Signer(b"k" * 32)
POSITIONS = st.builds(
    Position,
    epoch=st.integers(0, 2**63 - 1),
    partition=st.integers(0, 2**16 - 1),
    offset=st.integers(-1, 2**62),
    at_ms=st.integers(0, 2**62),
)


@given(POSITIONS)
def test_a_position_comes_back_as_it_was(position: Position) -> None:
    token = SIGNER.sign(position, "acme", "results:fraud")
    assert SIGNER.read(token, "acme", "results:fraud") == position


@given(POSITIONS, st.integers(0, 57), st.sampled_from(string.ascii_letters + string.digits + "-_"))
def test_no_changed_token_is_taken(position: Position, at: int, character: str) -> None:
    token = SIGNER.sign(position, "acme", "results:fraud")
    changed = token[:at] + character + token[at + 1 :]
    if at == 57 or changed == token:  # the last character has bits that carry nothing
        return
    with pytest.raises(InvalidInput):
        SIGNER.read(changed, "acme", "results:fraud")


@pytest.mark.parametrize(("tenant", "channel"), [("other", "results:fraud"), ("acme", "alerts")])
def test_a_token_of_another_tenant_or_channel_is_garbage(tenant: str, channel: str) -> None:
    token = SIGNER.sign(Position(1, 0, 5, 0), "acme", "results:fraud")
    with pytest.raises(InvalidInput):
        SIGNER.read(token, tenant, channel)


def test_tenant_and_channel_cannot_flow_into_each_other() -> None:
    token = SIGNER.sign(Position(1, 0, 5, 0), "a", "bresults")
    with pytest.raises(InvalidInput):
        SIGNER.read(token, "ab", "results")


@given(st.text(max_size=80))
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput):
        SIGNER.read(token, "acme", "results:fraud")


def test_a_token_of_another_secret_is_garbage() -> None:
    token = Signer(b"x" * 32).sign(Position(1, 0, 5, 0), "acme", "alerts")
    with pytest.raises(InvalidInput):
        SIGNER.read(token, "acme", "alerts")


def test_the_secret_is_made_once_and_only_for_the_owner(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = position_secret(settings)
    assert first == position_secret(settings)
    assert len(first) == 32
    file = settings.root / "gateway" / "position.key"
    assert file.stat().st_mode & 0o077 == 0


def test_a_secret_of_the_settings_wins(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, gateway=Gateway(position_secret="s" * 40))
    assert position_secret(settings) == b"s" * 40
    assert not (settings.root / "gateway").exists()
