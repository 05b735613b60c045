"""A user's tokens, as a client keeps them: logged in once, refreshed when the access token has expired.

    session = await UserSession.login("http://127.0.0.1:8000", "ann", password, code=ask_for_code)
    async with GatewayClient("http://127.0.0.1:8000", session) as client:
        await client.publish("fraud", events)

A refresh token counts once, so one object is shared by all that act for the user: of many requests that find
the token expired one refreshes, and the others go on with what it got. Where the answer to a refresh is lost
the session is lost with it, and somebody has to log in again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiohttp
import msgspec

from core.errors import Denied, InvalidInput, Unavailable

EXPIRED = "token_expired"
ATTEMPTS = 5
_AUTH = "/api/v1/auth"
Ask = Callable[[], Awaitable[str]]


class UserSession:
    """Belongs to one event loop. `on_tokens` is called with the access and refresh tokens whenever they
    change, for whoever wants to keep them."""

    def __init__(
        self,
        url: str,
        access: str,
        refresh: str,
        *,
        on_tokens: Callable[[str, str], None] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.access = access
        self.refreshes = 0
        self._url = url.rstrip("/")
        self._refresh = refresh
        self._on_tokens = on_tokens
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._lock = asyncio.Lock()
        self._over: Denied | None = None

    @classmethod
    async def login(cls, url: str, user: str, password: str, *, code: Ask | None = None, **more: Any) -> Self:
        """Log in; `code` is asked for the code of the second factor, again where it was wrong. Raises Denied,
        and Unavailable for too many attempts too."""
        made = cls(url, "", "", **more)
        answer = await made._post("/login", {"user": user, "password": password})
        for _ in range(ATTEMPTS):
            if "access_token" in answer:
                break
            if code is None:
                raise Denied("a second factor is asked for", code="second_factor", mend="give `code`")
            given = {"challenge": answer["challenge"], "code": await code()}
            answer = await made._post("/challenge", given, again="challenge")
        made._take(answer)
        return made

    async def renew(self, used: str) -> None:
        """Have another access token than the one that was used and has expired. Raises Denied where the
        session is over, Unavailable where that cannot be known."""
        async with self._lock:
            if self._over is not None:
                raise self._over
            if self.access != used:
                return
            try:
                self._take(await self._post("/refresh", {"refresh_token": self._refresh}))
            except Denied as over:
                self._over = over
                raise
            self.refreshes += 1

    async def logout(self, *, everywhere: bool = False) -> None:
        """End the session, or all of the user's. Raises Denied, Unavailable."""
        try:
            await self._post("/logout", {"everywhere": everywhere}, access=self.access)
        except Denied as error:
            if error.code != EXPIRED:
                raise
            await self.renew(self.access)
            await self._post("/logout", {"everywhere": everywhere}, access=self.access)

    def _take(self, answer: dict[str, Any]) -> None:
        if "access_token" not in answer:
            raise Denied("no code was right", code="wrong_code")
        self.access, self._refresh = answer["access_token"], answer["refresh_token"]
        if self._on_tokens is not None:
            self._on_tokens(self.access, self._refresh)

    async def _post(
        self, path: str, body: dict[str, Any], *, access: str | None = None, again: str | None = None
    ) -> dict[str, Any]:
        """The answer; that of a refusal too, where it has the member `again`."""
        headers = {"authorization": f"Bearer {access}"} if access is not None else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
                http.post(self._url + _AUTH + path, json=body, headers=headers) as answer,
            ):
                status, raw = answer.status, await answer.read()
        except aiohttp.InvalidURL as error:
            raise InvalidInput(f"no gateway address: {self._url}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the gateway does not answer: {error!r}", where=self._url) from error
        if status == 204:
            return {}
        try:
            said = dict(msgspec.json.decode(raw))
        except (msgspec.DecodeError, TypeError, ValueError):
            raise Unavailable(f"the gateway answered {status}", where=self._url) from None
        if status < 400 or (again is not None and again in said):
            return said
        detail, code = str(said.get("detail", status)), str(said.get("code", "unknown"))
        if status in (401, 403):
            raise Denied(detail, code=code)
        if status >= 500 or status == 429:
            raise Unavailable(detail, code=code)
        raise InvalidInput(detail, code=code)


Credential = str | UserSession
"""An API key, the token of another issuer, or a user's session."""


def text_of(credential: Credential) -> str:
    """What is sent of it now."""
    return credential.access if isinstance(credential, UserSession) else credential
