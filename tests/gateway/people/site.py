"""A gateway with users of the tests' own, and the users themselves."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import httpx
import redis

from core.ids import new_id
from core.people_settings import People
from core.sections import Allowance
from core.settings import Settings
from gateway.people import second_factor
from gateway.people.admin import Operator
from tests.gateway.running import RunningGateway

PASSWORD = "correct horse battery"
WIDE = Allowance(per_s=1e6, burst=1_000_000)
CHEAP: dict[str, Any] = {
    "hash_memory_kib": 64, "hash_passes": 1, "login_address": WIDE, "login_account": WIDE,
    "secret": "what the tests keep their secrets with",
}  # fmt: skip
AUTH = "/api/v1/auth"


class Trail:
    """An audit trail that is read by the tests."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def note(self, event: Any) -> None:
        self.events.append(event)

    async def written(self, event: Any) -> None:
        self.note(event)


class PeopleSite(RunningGateway):
    """`people`: settings that differ; `port`: another one than that of the settings. `bare` has no
    credential."""

    def __init__(self, settings: Settings, *, port: int | None = None, **people: Any) -> None:
        gateway = settings.gateway.model_copy(update={"port": port or settings.gateway.port})
        changed = {"people": People(**(CHEAP | people)), "gateway": gateway}
        super().__init__(settings.model_copy(update=changed))
        self.trail = Trail()
        self.operator = Operator(self.settings, self.trail)
        self.bare = httpx.Client(base_url=self.url, timeout=60)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bare.close()
        super().__exit__(*error)

    def user(self, *roles: str, tenant: str = "acme") -> str:
        """The name of a new user."""
        name = f"u-{new_id()}"
        self.operator.create(tenant, name, PASSWORD, roles)
        return name

    def login(self, name: str, password: str = PASSWORD) -> httpx.Response:
        return self.bare.post(f"{AUTH}/login", json={"user": name, "password": password})

    def tokens(self, *roles: str, tenant: str = "acme") -> dict[str, Any]:
        """Those of a new user."""
        answer = self.login(self.user(*roles, tenant=tenant))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def get(self, path: str, access: str) -> httpx.Response:
        return self.bare.get(path, headers=bearer(access))

    def post(self, path: str, access: str, body: Any = None) -> httpx.Response:
        return self.bare.post(path, json=body, headers=bearer(access))

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.settings.redis.address)

    def enrolled(self, *roles: str) -> tuple[str, bytes, list[str]]:
        """A new user with a second factor: name, secret, recovery codes."""
        name = self.user(*roles)
        access = self.login(name).json()["access_token"]
        offered = self.post(f"{AUTH}/second-factor", access, {"password": PASSWORD})
        assert offered.status_code == 200, offered.text
        secret = secret_of(offered.json()["secret"])
        now = second_factor.step_at(datetime.now(UTC))
        code = second_factor.code_at(secret, now - 1)  # so that the one of now is still to be used
        confirmed = self.post(f"{AUTH}/second-factor/confirm", access, {"code": code})
        assert confirmed.status_code == 200, confirmed.text
        return name, secret, list(confirmed.json()["recovery_codes"])

    def challenge(self, name: str) -> str:
        answer = self.login(name)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["challenge"])

    def answer(self, challenge: str, code: str) -> httpx.Response:
        return self.bare.post(f"{AUTH}/challenge", json={"challenge": challenge, "code": code})


def bearer(access: str) -> dict[str, str]:
    return {"authorization": f"Bearer {access}"}


def secret_of(text: str) -> bytes:
    import base64

    return base64.b32decode(text + "=" * (-len(text) % 8))


def code_now(secret: bytes) -> str:
    return second_factor.code_at(secret, second_factor.step_at(datetime.now(UTC)))


def until(good: Any, what: str, within_s: float = 20.0) -> None:
    """Poll until `good()`."""
    deadline = time.monotonic() + within_s
    while not good():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def run(work: Any) -> Any:
    return asyncio.run(work)


def names(events: Sequence[Any]) -> list[str]:
    return [event.action for event in events]
