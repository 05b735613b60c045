"""Logging in and out: passwords, challenges, tokens, sessions. The routes are under `/api/v1/auth`.

Whoever asks costs the same and is answered the same, whether the user exists, is disabled, or the password is
wrong: one verification of argon2id, and 401 `login_failed`. Attempts are limited by address and by account,
whether there is such an account or not.

Tokens are issued only while Redis and PostgreSQL answer; else 503, and those that are held go on
(`gateway.people.access_tokens`). A refresh token that was used before ends its session, without exception: a
client whose answer was lost logs in again.
"""

import msgspec

from core.clock import Clock
from core.errors import Denied
from gateway.exchange import Request, Response, json_response
from gateway.limits import NamedLimit
from gateway.people import bodies, refresh_tokens, second_factor
from gateway.people.access_tokens import AccessTokens
from gateway.people.challenges import Challenge, Challenges, Paused
from gateway.people.noting import Notes
from gateway.people.passwords import MOST, Passwords
from gateway.people.refresh_tokens import RefreshToken
from gateway.people.sessions import Sessions
from gateway.people.users import NAME, User, Users
from gateway.people.vault import Vault
from gateway.problems import CONTENT_TYPE, problem_of

LOGIN, CHALLENGE, REUSE = "login", "login.challenge", "session.reuse"
REFRESH_REFUSED = "the refresh token is not valid"


class LoginLimits:
    """Attempts from one address, and to one account; an account that does not exist is one too."""

    def __init__(self, address: NamedLimit, account: NamedLimit) -> None:
        self._address = address
        self._account = account

    async def admit(self, address: str, account: str | None = None) -> None:
        """Count one attempt. Raises OverLimit."""
        await self._address.take(address, 1, "attempts to log in from this address")
        if account is not None:
            await self._account.take(account, 1, "attempts to log in to this account")


class LoginEndpoint:
    """The handlers of whoever has no valid token: `login`, `challenge`, `refresh`."""

    def __init__(
        self,
        users: Users,
        passwords: Passwords,
        vault: Vault,
        challenges: Challenges,
        sessions: Sessions,
        tokens: AccessTokens,
        *,
        limits: LoginLimits,
        notes: Notes,
        clock: Clock,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._vault = vault
        self._challenges = challenges
        self._sessions = sessions
        self._tokens = tokens
        self._limits = limits
        self._notes = notes
        self._clock = clock

    async def login(self, request: Request) -> Response:
        """Tokens, or a challenge. Raises Denied, OverLimit, Paused, QueueFull, Unavailable."""
        body = await bodies.read(request, bodies.LoginBody)
        name = body.user.lower()[:128]
        await self._limits.admit(request.address, name)
        user = await self._users.named(name) if NAME.fullmatch(name) else None
        right = await self._passwords.verify(user.password if user else None, body.password[:MOST])
        if user is None or not right or user.disabled or len(body.password) > MOST:
            self._refused(request, user, LOGIN, "login_failed")
            raise Denied("user or password is wrong", code="login_failed")
        if user.factor is not None:
            return json_response(200, _asked(await self._challenge(request, user)))
        return await self._begin(request, user)

    async def challenge(self, request: Request) -> Response:
        """Tokens; or 401 with the next challenge. Raises Denied, OverLimit, Paused, Unavailable."""
        body = await bodies.read(request, bodies.ChallengeBody)
        await self._limits.admit(request.address)
        id = await self._challenges.take(body.challenge)
        user = await self._users.of(id) if id is not None else None
        if user is None or user.disabled or user.factor is None:
            self._refused(request, user, CHALLENGE, "challenge_over")
            raise Denied("the challenge is over", code="challenge_over", mend="log in again")
        await self._challenges.require_no_pause(user.id)
        if await self._right(user, user.factor, body.code):
            await self._challenges.right(user.id)
            return await self._begin(request, user)
        left = await self._challenges.wrong(user.id)
        self._refused(request, user, CHALLENGE, "wrong_code")
        return _wrong(request, await self._challenge(request, user), left)

    async def refresh(self, request: Request) -> Response:
        """The next tokens. Raises Denied, Unavailable."""
        body = await bodies.read(request, bodies.RefreshBody)
        token = refresh_tokens.parse(body.refresh_token)
        session = await self._sessions.of(token.session) if token is not None else None
        if token is None or session is None:
            raise Denied(REFRESH_REFUSED, code="refresh_refused", mend="log in again")
        state = (await self._users.states([session.user])).get(session.user)
        if state is None or state.disabled or state.tenant != session.tenant:
            await self._sessions.end(session.user, session.id)
            raise Denied(REFRESH_REFUSED, code="refresh_refused", mend="log in again")
        issued = await self._tokens.issue(
            user=session.user, tenant=state.tenant, session=session.id, roles=state.roles
        )
        following = token.next()
        became = await self._sessions.refresh(token, following, session.user)
        if became == "good":
            return _tokens(issued.text, issued.lasts_s, following)
        if became == "reused":
            self._notes.note(
                request,
                REUSE,
                "denied",
                user=session.user,
                tenant=session.tenant,
                target=f"session:{session.id}",
                reason="refresh_refused",
            )
        raise Denied(REFRESH_REFUSED, code="refresh_refused", mend="log in again")

    async def _right(self, user: User, factor: bytes, code: str) -> bool:
        """Whether it is a code that was not used, which it is from now on."""
        secret = self._vault.open(factor, user.id)
        step = second_factor.step_of(secret, code, self._clock.now())
        if step is not None:
            return await self._users.use_step(user.id, step)
        return await self._users.use_recovery_code(user.id, second_factor.hash_of(code))

    async def _challenge(self, request: Request, user: User) -> Challenge:
        try:
            return await self._challenges.give(user.id)
        except Paused as error:
            self._refused(request, user, LOGIN, error.code)
            raise

    async def _begin(self, request: Request, user: User) -> Response:
        state = (await self._users.states([user.id])).get(user.id)
        roles = state.roles if state is not None else frozenset()
        token = await self._sessions.begin(
            user=user.id,
            tenant=user.tenant,
            address=request.address,
            agent=request.headers.get("user-agent", ""),
        )
        issued = await self._tokens.issue(
            user=user.id, tenant=user.tenant, session=token.session, roles=roles
        )
        target = f"session:{token.session}"
        self._notes.note(request, LOGIN, "allowed", user=user.id, tenant=user.tenant, target=target)
        return _tokens(issued.text, issued.lasts_s, token)

    def _refused(self, request: Request, user: User | None, action: str, reason: str) -> None:
        id, tenant = (user.id, user.tenant) if user is not None else ("", "")
        self._notes.note(request, action, "denied", user=id, tenant=tenant, reason=reason)


def _asked(challenge: Challenge) -> bodies.ChallengeAnswer:
    return bodies.ChallengeAnswer(
        challenge=challenge.text, expires_in=int(challenge.lasts_s), methods=["totp", "recovery_code"]
    )


def _tokens(access: str, lasts_s: int, refresh: RefreshToken) -> Response:
    answer = bodies.TokensAnswer(
        access_token=access, refresh_token=refresh.text, expires_in=lasts_s, session=refresh.session
    )
    return json_response(200, answer)


def _wrong(request: Request, challenge: Challenge, left: int) -> Response:
    """The refusal of a code, with the challenge that is to be answered next."""
    error = Denied("the code is wrong, or was used", code="wrong_code", mend="answer the next challenge")
    problem = msgspec.structs.asdict(problem_of(error, request.request_id))
    document = bodies.WrongCode(**problem, challenge=challenge.text, attempts_left=left)
    headers = [("www-authenticate", 'Bearer realm="millstream"')]
    return Response(401, msgspec.json.encode(document), CONTENT_TYPE, headers, error=error)
