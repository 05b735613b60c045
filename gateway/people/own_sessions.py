"""What users do with what is theirs: end sessions, list them, set up a second factor."""

from core.clock import Clock
from core.errors import Conflict, Denied
from core.people_settings import People
from gateway.exchange import Request, Response, json_response
from gateway.people import bodies, second_factor
from gateway.people.challenges import Challenges
from gateway.people.endpoint import LoginLimits
from gateway.people.noting import Notes
from gateway.people.passwords import MOST, Passwords
from gateway.people.revoked import Revoked
from gateway.people.sessions import Sessions
from gateway.people.users import User, Users
from gateway.people.vault import Vault
from gateway.problems import Forbidden, NotFound
from gateway.tokens import denied


class SessionsEndpoint:
    """`logout`, and the list of sessions. `revoked` is told at once; other gateways follow."""

    def __init__(self, sessions: Sessions, revoked: Revoked, notes: Notes) -> None:
        self._sessions = sessions
        self._revoked = revoked
        self._notes = notes

    async def logout(self, request: Request) -> Response:
        """End this session, or all of the user's. Raises Unavailable."""
        body = await bodies.read(request, bodies.LogoutBody, optional=True)
        user, session = _who(request)
        ended = [session]
        if body.everywhere:
            ended += [one.id for one in await self._sessions.all_of(user)]
        await self._end(user, *ended)
        self._told(request, "logout", "every session" if body.everywhere else f"session:{session}")
        return Response(204)

    async def list(self, request: Request) -> Response:
        user, session = _who(request)
        found = [
            bodies.SessionAnswer(
                id=one.id,
                current=one.id == session,
                began_at=one.began_at,
                refreshed_at=one.refreshed_at,
                address=one.address,
                agent=one.agent,
            )
            for one in await self._sessions.all_of(user)
        ]
        return json_response(200, bodies.SessionsAnswer(found))

    async def end(self, request: Request) -> Response:
        """End one of the user's sessions. Raises NotFound, Unavailable."""
        user, _ = _who(request)
        id = request.parameters["id"]
        if not await self._end(user, id):
            raise NotFound(f"no session {id[:64]!r}")
        self._told(request, "session.end", f"session:{id}")
        return Response(204)

    async def _end(self, user: str, *sessions: str) -> int:
        ended = await self._sessions.end(user, *sessions)
        if ended:
            for session in sessions:
                self._revoked.add(session)
        return ended

    def _told(self, request: Request, action: str, target: str) -> None:
        user, _ = _who(request)
        tenant = request.principal.tenant
        self._notes.note(request, action, "allowed", user=user, tenant=tenant, target=target)


class SecondFactorEndpoint:
    """A second factor is offered against the password, and counts once a code of it was shown. One that
    counts is taken away by an operator alone (`millstream users reset-second-factor`)."""

    def __init__(
        self,
        users: Users,
        passwords: Passwords,
        vault: Vault,
        challenges: Challenges,
        *,
        settings: People,
        limits: LoginLimits,
        notes: Notes,
        clock: Clock,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._vault = vault
        self._challenges = challenges
        self._issuer = settings.issuer
        self._limits = limits
        self._notes = notes
        self._clock = clock

    async def offer(self, request: Request) -> Response:
        """A new secret. Raises Forbidden for a wrong password, Conflict, OverLimit, QueueFull,
        Unavailable."""
        body = await bodies.read(request, bodies.PasswordBody)
        user = await self._user(request)
        await self._limits.admit(request.address, user.name)
        right = await self._passwords.verify(user.password, body.password[:MOST])
        if not right or len(body.password) > MOST:
            raise Forbidden("the password is wrong", code="wrong_password")
        secret = second_factor.new_secret()
        if not await self._users.offer_factor(user.id, self._vault.seal(secret, user.id)):
            raise _there_already()
        address = second_factor.address_of(secret, issuer=self._issuer, name=user.name)
        answer = bodies.OfferedFactorAnswer(secret=second_factor.text_of(secret), address=address)
        return json_response(200, answer)

    async def confirm(self, request: Request) -> Response:
        """It counts from now on. Raises Forbidden for a wrong code, Conflict, OverLimit, Paused,
        Unavailable."""
        body = await bodies.read(request, bodies.CodeBody)
        user = await self._user(request)
        await self._limits.admit(request.address)
        if user.factor is not None:
            raise _there_already()
        sealed = await self._users.offered_factor(user.id)
        if sealed is None:
            raise Conflict(
                "no second factor is offered", code="no_second_factor_offered", mend="ask for one first"
            )
        await self._challenges.require_no_pause(user.id)
        step = second_factor.step_of(self._vault.open(sealed, user.id), body.code, self._clock.now())
        if step is None:
            await self._challenges.wrong(user.id)
            raise Forbidden("the code is wrong", code="wrong_code")
        codes = second_factor.new_recovery_codes()
        hashes = [second_factor.hash_of(code) for code in codes]
        if not await self._users.confirm_factor(user.id, sealed, step, hashes):
            raise _there_already()
        self._notes.note(request, "second-factor.confirm", "allowed", user=user.id, tenant=user.tenant)
        return json_response(200, bodies.RecoveryCodesAnswer(codes))

    async def _user(self, request: Request) -> User:
        id, _ = _who(request)
        user = await self._users.of(id)
        if user is None:
            raise denied()
        return user


def _who(request: Request) -> tuple[str, str]:
    """The user's id and session. Raises Denied for who is none, whom the door does not let through."""
    principal = request.principal
    if principal.user is None or principal.session is None:
        raise Denied("no user")
    return principal.user, principal.session


def _there_already() -> Conflict:
    return Conflict(
        "there is a second factor already",
        code="second_factor_there",
        mend="have it taken away first: `millstream users reset-second-factor`",
    )
