"""The second factor: codes count once, wrong ones are counted, recovery codes stand in."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.people import second_factor
from tests.gateway.people.site import AUTH, PASSWORD, PeopleSite, code_now

REVIEWS = "/api/v1/reviews"
SECRET = b"12345678901234567890"


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"), (1234567890, "89005924"),
        (2000000000, "69279037"), (20000000000, "65353130"),
    ],
)  # fmt: skip
def test_codes_are_those_of_the_rfc(seconds: int, code: str) -> None:
    """RFC 6238, appendix B, SHA-1; ours have six digits of its eight."""
    assert second_factor.code_at(SECRET, seconds // 30) == code[2:]


def test_a_code_counts_for_its_step_and_the_ones_beside_it() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    code = second_factor.code_at(SECRET, second_factor.step_at(at))
    for off, good in ((-60, False), (-30, True), (0, True), (30, True), (60, False)):
        step = second_factor.step_of(SECRET, code, at + timedelta(seconds=off))
        assert (step is not None) == good, off
    for wrong in ("", "12345", "1234567", "abcdef", "\u0661\u0662\u0663\u0664\u0665\u0666"):
        assert second_factor.step_of(SECRET, wrong, at) is None
    assert second_factor.step_of(SECRET, f"{code[:3]} {code[3:]}", at) is not None


@pytest.mark.services
def test_a_login_with_a_second_factor_gives_a_challenge_and_no_token(site: PeopleSite) -> None:
    name, secret, _ = site.enrolled("viewer")
    answer = site.login(name)
    assert answer.status_code == 200
    assert answer.json().keys() == {"challenge", "expires_in", "methods"}
    done = site.answer(answer.json()["challenge"], code_now(secret))
    assert done.status_code == 200, done.text
    assert site.get(REVIEWS, done.json()["access_token"]).status_code == 200


@pytest.mark.services
def test_a_code_and_a_challenge_count_once(site: PeopleSite) -> None:
    name, secret, _ = site.enrolled()
    code, challenge = code_now(secret), site.challenge(name)
    assert site.answer(challenge, code).status_code == 200
    over = site.answer(challenge, code)
    assert (over.status_code, over.json()["code"]) == (401, "challenge_over")
    replayed = site.answer(site.challenge(name), code)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "wrong_code")


@pytest.mark.services
def test_a_recovery_code_counts_once(site: PeopleSite) -> None:
    name, _, codes = site.enrolled()
    assert len(set(codes)) == 10
    assert site.answer(site.challenge(name), codes[0]).status_code == 200
    assert site.answer(site.challenge(name), codes[0]).status_code == 401
    assert site.answer(site.challenge(name), codes[1].lower().replace("-", "")).status_code == 200


@pytest.mark.services
def test_a_wrong_code_gives_the_next_challenge_and_the_fifth_a_pause(site: PeopleSite) -> None:
    name, secret, codes = site.enrolled()
    challenge = site.challenge(name)
    for left in (4, 3, 2, 1):
        wrong = site.answer(challenge, "000000")
        assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_code")
        assert wrong.json()["attempts_left"] == left
        assert wrong.json()["challenge"] != challenge
        challenge = (
            wrong.json()["challenge"] if left % 2 else site.challenge(name)
        )  # logging in gives no more
    last = site.answer(challenge, "000000")
    assert (last.status_code, last.json()["code"]) == (429, "second_factor_paused")
    assert int(last.headers["retry-after"]) > 200
    for refused in (site.login(name), site.answer(challenge, code_now(secret))):
        assert refused.status_code in (401, 429)
    assert site.login(name).status_code == 429
    assert site.answer(challenge, codes[0]).status_code == 401, "nothing is taken while it lasts"


@pytest.mark.services
def test_a_second_factor_is_offered_against_the_password_and_not_replaced(site: PeopleSite) -> None:
    name = site.user()
    access = site.login(name).json()["access_token"]
    wrong = site.post(f"{AUTH}/second-factor", access, {"password": "wrong horse battery"})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_password")
    early = site.post(f"{AUTH}/second-factor/confirm", access, {"code": "123456"})
    assert (early.status_code, early.json()["code"]) == (409, "no_second_factor_offered")
    offered = site.post(f"{AUTH}/second-factor", access, {"password": PASSWORD}).json()
    assert offered["address"].startswith("otpauth://totp/millstream:")
    assert site.login(name).json().keys() >= {"access_token"}, "it counts only once it is confirmed"
    enrolled, secret, _ = site.enrolled()
    answer = site.answer(site.challenge(enrolled), code_now(secret)).json()
    again = site.post(f"{AUTH}/second-factor", answer["access_token"], {"password": PASSWORD})
    assert (again.status_code, again.json()["code"]) == (409, "second_factor_there")


@pytest.mark.services
def test_an_operator_takes_it_away(site: PeopleSite) -> None:
    name, _, codes = site.enrolled()
    site.operator.reset_second_factor(name)
    assert "access_token" in site.login(name).json()
    site.enrolled()
    assert codes


@pytest.mark.services
def test_what_is_stored_logs_nobody_in(site: PeopleSite) -> None:
    import psycopg

    name, secret, codes = site.enrolled()
    with psycopg.connect(site.settings.postgres.address) as connection:
        rows = [
            str(connection.execute(f"SELECT row_to_json(t)::text FROM {table} AS t").fetchall())
            for table in ("users", "recovery_codes", "signing_keys")
        ]
    stored = "".join(rows)
    assert name in stored
    assert "$argon2id$" in stored
    for hidden in (PASSWORD, secret.hex(), second_factor.text_of(secret), *codes):
        assert hidden not in stored
    tokens = site.tokens()
    kept = b"".join(
        b"".join(site.redis().hgetall(key).values()) for key in site.redis().scan_iter("millstream:session:*")
    )
    for part in tokens["refresh_token"].split("_")[2:]:
        assert part.encode() not in kept
