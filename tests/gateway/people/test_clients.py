"""The clients that are shipped: an access token that expires is refreshed once, and they go on."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import Denied
from gateway.client import GatewayClient, Listening, UserSession
from stack.local import Stack
from tests.gateway.people.site import PASSWORD, PeopleSite, code_now
from tests.gateway.running import change, produce, transaction
from tests.gateway.test_javascript_client import node
from tests.stack_fixture import free_ports

pytestmark = pytest.mark.services
SCRIPT = Path(__file__).with_name("user_session.js")


@pytest.fixture(scope="module")
def brief(stack: Stack) -> Iterator[PeopleSite]:
    """A gateway whose access tokens last two seconds."""
    (port,) = free_ports(1)
    with PeopleSite(stack.settings, port=port, access_s=2, skew_s=0) as made:
        yield made


async def expired(session: UserSession, site: PeopleSite) -> None:
    """Until the token that the session has is refused for having expired."""
    assert await refusal(session.access, site) == "token_expired"


async def refusal(credential: str | UserSession, site: PeopleSite) -> str:
    """The code with which requests are refused, once they are."""
    async with asyncio.timeout(30), GatewayClient(site.url, credential) as client:
        while True:
            try:
                await client.transaction("absent")
            except Denied as error:
                return error.code
            await asyncio.sleep(0.05)


async def test_requests_go_on_with_one_refresh_for_all(brief: PeopleSite) -> None:
    kept: list[tuple[str, str]] = []
    name = brief.user("operator")
    session = await UserSession.login(
        brief.url, name, PASSWORD, on_tokens=lambda *tokens: kept.append(tokens)
    )
    async with GatewayClient(brief.url, session) as client:
        assert (await client.publish("fraud", [transaction()]))[0].ok
        await expired(session, brief)
        many = await asyncio.gather(*(client.publish("fraud", [transaction()]) for _ in range(20)))
        assert all(outcome.ok for one in many for outcome in one)
        assert session.refreshes == 1
        assert len(kept) == 2
        assert kept[0] != kept[1]


async def test_a_socket_is_opened_again_with_the_next_token(brief: PeopleSite) -> None:
    session = await UserSession.login(brief.url, brief.user("viewer"), PASSWORD)
    state, found = Listening(), []
    async with GatewayClient(brief.url, session) as client:

        async def listen() -> None:
            async for event in client.listen("fraud", state=state, filter={"entity": "1-2-3"}):
                found.append(event.id)
                if len(found) == 2:
                    return

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(60):
            await state.subscribed.wait()
            await asyncio.to_thread(produce, brief.settings, [change("first-of-a-session")])
            while session.refreshes == 0 or not state.subscribed.is_set():
                await asyncio.sleep(0.05)
            await asyncio.to_thread(produce, brief.settings, [change("second-of-a-session")])
            await listening
    assert found == ["first-of-a-session", "second-of-a-session"]
    assert state.reconnects >= 1


async def test_a_session_that_is_over_is_told_and_not_asked_for_again(brief: PeopleSite) -> None:
    name = brief.user("viewer")
    session = await UserSession.login(brief.url, name, PASSWORD)
    async with GatewayClient(brief.url, session) as client:
        await client.transaction("absent")
        await asyncio.to_thread(brief.operator.disable, name)
        assert await refusal(session, brief) in ("unauthenticated", "refresh_refused")
        with pytest.raises(Denied):
            async for _ in client.listen("fraud"):
                pass
    assert session.refreshes <= 1


async def test_a_login_asks_for_the_code_again_where_it_was_wrong(brief: PeopleSite) -> None:
    name, secret, _ = await asyncio.to_thread(brief.enrolled, "viewer")
    given = iter(["000000", code_now(secret)])

    async def code() -> str:
        return next(given)

    session = await UserSession.login(brief.url, name, PASSWORD, code=code)
    async with GatewayClient(brief.url, session) as client:
        assert await client.transaction("absent") is None
    with pytest.raises(Denied) as caught:
        await UserSession.login(brief.url, name, PASSWORD)
    assert caught.value.code == "second_factor"
    await session.logout()
    with pytest.raises(Denied):
        await session.renew(session.access)


async def test_the_javascript_client_goes_on_too(brief: PeopleSite) -> None:
    command = node()
    tokens: dict[str, Any] = await asyncio.to_thread(brief.tokens, "viewer")
    environment = os.environ | {
        "URL_OF_GATEWAY": brief.url, "ACCESS": tokens["access_token"], "REFRESH": tokens["refresh_token"],
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        str(SCRIPT),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, error = await process.communicate()
    lines = [json.loads(line) for line in out.decode().splitlines()]
    assert process.returncode == 0, error.decode()
    assert lines == [
        {"subscribed": 1},
        {"refreshed": True},
        {"subscribed": 2},
        {"logged_out": 204},
        {"closed": "refresh_refused"},
    ]


async def test_who_may_not_follow_is_told_and_not_tried_again(brief: PeopleSite) -> None:
    session = await UserSession.login(brief.url, brief.user(), PASSWORD)
    state = Listening()
    async with asyncio.timeout(30), GatewayClient(brief.url, session) as client:
        with pytest.raises(Denied) as caught:
            async for _ in client.listen("fraud", state=state):
                pass
    assert caught.value.code == "forbidden"
    assert state.reconnects == 0
