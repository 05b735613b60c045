"""Authentication and keys: who is let in, how soon a key works, and how soon it does not any more."""

import time
from datetime import timedelta

import httpx
import pytest

from gateway.keys import create_key, revoke_key, rotate_key
from gateway.principals import FEATURES_READ
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
PATH = "/api/v1/features/card_activity/nobody"
KEYS = 40


def with_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_new_key_works_at_once_and_is_checked_fast(
    deployed: Deployed, measure: Measure, tenant: str
) -> None:
    """The first use of a key asks PostgreSQL, further ones do not; both count."""
    keys = [deployed.key(tenant) for _ in range(KEYS)]
    with measure.client(deployed.url) as http:
        http.get("/livez", **expecting(200))  # connected
        for key in keys:
            for _ in range(3):
                with measure.timed("authentication"):
                    answer = http.get(PATH, headers=with_key(key), **expecting(200))
                assert answer.status_code == 200


def test_what_is_no_key_is_refused_fast_and_told_nothing(
    deployed: Deployed, measure: Measure, tenant: str
) -> None:
    good = deployed.key(tenant)
    wrong = ["x", "ms_" + "a" * 40, good[:-1] + ("a" if good[-1] != "a" else "b"), good.upper()]
    told = set()
    with measure.client(deployed.url) as http:
        for _ in range(10):
            for key in wrong:
                with measure.timed("authentication"):
                    answer = http.get(PATH, headers=with_key(key), **expecting(401))
                body = answer.json()
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                told.add((body["code"], body["detail"]))
        nothing = http.get(PATH, **expecting(401))
        assert nothing.json()["code"] == "unauthenticated"
    assert len({code for code, _ in told}) == 1, told


def test_a_key_reaches_as_far_as_its_scopes(deployed: Deployed, measure: Measure, tenant: str) -> None:
    key = create_key(deployed.settings, tenant, scopes=[FEATURES_READ])
    with measure.client(deployed.url, key) as http:
        assert http.get(PATH, **expecting(200)).status_code == 200
        refused = http.get("/api/v1/models", **expecting(403))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_a_revoked_key_is_refused_within_a_second(deployed: Deployed, measure: Measure, tenant: str) -> None:
    key = deployed.key(tenant)
    with measure.client(deployed.url, key) as http:
        assert http.get(PATH, **expecting(200)).status_code == 200
        revoke_key(deployed.settings, key)
        began = time.perf_counter()
        while http.get(PATH, **expecting(200, 401)).status_code != 401:
            assert time.perf_counter() - began < 30, "the revoked key still works"
            time.sleep(0.01)
        measure.add("revoked key refused", (time.perf_counter() - began) * 1000)


def test_a_rotated_key_and_its_successor_work_side_by_side(
    deployed: Deployed, measure: Measure, tenant: str
) -> None:
    old = deployed.key(tenant)
    new, _ = rotate_key(deployed.settings, old, overlap=timedelta(hours=1))
    with measure.client(deployed.url) as http:
        answers = [http.get(PATH, headers=with_key(key), **expecting(200)) for key in (old, new)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert httpx.Headers(answers[0].headers)["x-request-id"] != answers[1].headers["x-request-id"]
