"""Who called, for those behind the gateway: as attributes of Kafka messages, and as headers of HTTP requests.

What a client sends under these names is never passed on: they are made here, of the principal.
"""

from gateway.exchange import Request
from gateway.principals import Principal

HTTP_PREFIX = "x-millstream-"


def caller_of(request: Request) -> dict[str, str]:
    """Of a message that is published for the request: `ce_user`, `ce_roles`, `ce_session`, `ce_requestid`.
    There is no user where a key or a token of another issuer called; `ce_source` has its public id."""
    return {**attributes(request.principal), "requestid": request.request_id}


def attributes(principal: Principal) -> dict[str, str]:
    """User, session and roles, as far as there are any."""
    if principal.user is None or principal.session is None:
        return {}
    found = {"user": principal.user, "session": principal.session}
    return found | ({"roles": ",".join(sorted(principal.roles))} if principal.roles else {})


def http_headers(request: Request) -> dict[str, str]:
    """Of a request to a server that the gateway asks for this one."""
    principal = request.principal
    of_user = {f"{HTTP_PREFIX}{name}": value for name, value in attributes(principal).items()}
    return {
        "x-request-id": request.request_id,
        f"{HTTP_PREFIX}tenant": principal.tenant,
        f"{HTTP_PREFIX}caller": principal.credential,
        **of_user,
    }
