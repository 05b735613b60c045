"""What belongs to another tenant looks like what is not there: the same answer, but for the id that was asked
for. A table of every route that takes an id; the names of one tenant mean nothing to the other."""

from typing import Any

import pytest

from core.ids import new_id
from tests.gateway.abuse.routes import ROUTES, method_of, template_of
from tests.gateway.abuse.site import SECRET, Site
from tests.gateway.running import eventually, transaction

pytestmark = pytest.mark.services
NAMES_OF_ALL = ("{pipeline}", "{view}", "{model}", "/api/v1/models/")
OWNED = [name for name in ROUTES if "{" in name and not any(part in name for part in NAMES_OF_ALL)]
BODIES: dict[str, Any] = {"POST /api/v1/reviews/{id}/decision": {"verdict": "fraud"}}
INFER = "/api/v1/pipelines/fraud/infer"


@pytest.fixture(scope="module")
def id(site: Site) -> str:
    """The id of something of theirs, of every kind."""
    made = f"{new_id()}-0"
    event = transaction(id=made, card_id=SECRET)
    assert site.theirs.post("/api/v1/pipelines/fraud/events", json=event).status_code == 202
    asked = {"idempotency-key": made, "prefer": "respond-async"}
    question = transaction(card_id=SECRET)
    eventually(lambda: site.theirs.post(INFER, json=question, headers=asked).status_code == 202, "asked")
    site.sql(
        "INSERT INTO reviews (tenant, id, pipeline, entity, occurred_at, reasons, state, opened_at)"
        " VALUES ('theirs', %s, 'fraud', %s, now(), '[]', 'open', now())",
        made,
        SECRET,
    )
    return made


@pytest.mark.parametrize("name", OWNED)
def test_theirs_and_nothing_are_the_same(site: Site, id: str, name: str) -> None:
    owned = id
    if "training" in name:
        owned = site.theirs.post("/api/v1/training/jobs", json={"model": "fraud"}).json()["id"]
        assert site.theirs.get(f"/api/v1/training/jobs/{owned}").status_code == 200
    if "sessions" in name:
        access = site.access(site.user("theirs", "viewer"))
        listed = site.bare.get("/api/v1/auth/sessions", headers={"authorization": f"Bearer {access}"})
        owned = listed.json()["sessions"][0]["id"]
    absent = owned[:-1] + ("1" if owned[-1] != "1" else "2")
    seen = []
    for asked in (owned, absent):
        path = template_of(name).replace("{id}", asked)
        answer = site.caller(ROUTES[name]).request(method_of(name), path, json=BODIES.get(name))
        assert site.wrong(answer, 404, "not_found") == []
        told = answer.text.replace(asked, "ID").replace(answer.headers["x-request-id"], "REQUEST")
        headers = {name for name in answer.headers if name != "content-length"}
        seen.append((answer.status_code, told, sorted(headers), answer.headers["content-type"]))
    assert seen[0] == seen[1]
    site.works()


def test_nothing_of_theirs_is_listed(site: Site, id: str) -> None:
    theirs = site.theirs.post("/api/v1/training/jobs", json={"model": "fraud"}).json()["id"]
    assert theirs in site.theirs.get("/api/v1/training/jobs").text
    assert id in site.theirs.get("/api/v1/reviews").text
    for path in ("/api/v1/reviews", "/api/v1/reviews?state=decided", "/api/v1/training/jobs"):
        answer = site.ours.get(path)
        assert site.wrong(answer, 200) == []
        assert theirs not in answer.text
        assert id not in answer.text
    page = site.theirs.get("/api/v1/reviews?limit=1").json()
    assert SECRET not in site.ours.get("/api/v1/reviews", params={"after": page["after"] or "W10"}).text


def test_the_names_of_one_mean_nothing_to_the_other(site: Site, id: str) -> None:
    """The same event id, the same Idempotency-Key: each is the tenant's own, and no conflict."""
    event = transaction(id=id, amount_cents=77)
    assert site.ours.post("/api/v1/pipelines/fraud/events", json=event).status_code == 202
    asked = {"idempotency-key": id, "prefer": "respond-async"}
    answer = site.ours.post(INFER, json=transaction(card_id="mine"), headers=asked)
    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (202, False)
    mine = site.ours.get(f"/api/v1/transactions/{id}")
    assert site.wrong(mine, 200) == []
    claimed = transaction(tenant="theirs")
    assert site.wrong(site.ours.post("/api/v1/pipelines/fraud/events", json=claimed), 422) == []
    for headers in ({"x-tenant": "theirs"}, {"tenant": "theirs"}):
        answer = site.ours.get("/api/v1/reviews?tenant=theirs", headers=headers)
        assert site.wrong(answer, 200) == []
        assert answer.json()["reviews"] == []
    site.works()
