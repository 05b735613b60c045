"""Who called, as servers behind the gateway are told."""

from gateway.caller import caller_of, http_headers
from gateway.exchange import Request, never
from gateway.principals import ANONYMOUS, Principal


def request(principal: Principal) -> Request:
    async def body(limit: int) -> bytes:
        del limit
        await never()
        return b""

    sent = {"x-millstream-user": "somebody else", "x-millstream-roles": "admin"}
    return Request("GET", "/", sent, body, "req-1", principal=principal)


def test_a_user_goes_on_with_roles_and_session() -> None:
    roles = frozenset({"viewer", "analyst"})
    user = Principal("acme", "user:u1", frozenset(), signed_with="k", roles=roles, session="s1")
    assert http_headers(request(user)) == {
        "x-request-id": "req-1",
        "x-millstream-tenant": "acme",
        "x-millstream-caller": "user:u1",
        "x-millstream-user": "u1",
        "x-millstream-session": "s1",
        "x-millstream-roles": "analyst,viewer",
    }
    assert caller_of(request(user)) == {
        "user": "u1", "session": "s1", "roles": "analyst,viewer", "requestid": "req-1"
    }  # fmt: skip


def test_a_key_is_no_user_whatever_it_says_of_itself() -> None:
    key = Principal("acme", "key-1", frozenset({"events:write"}))
    assert http_headers(request(key)) == {
        "x-request-id": "req-1", "x-millstream-tenant": "acme", "x-millstream-caller": "key-1"
    }  # fmt: skip
    assert caller_of(request(ANONYMOUS)) == {"requestid": "req-1"}
