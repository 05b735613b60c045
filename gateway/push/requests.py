"""A frame as the request that a handler takes."""

from collections.abc import Mapping

from core.errors import TooLarge
from core.ids import new_id
from gateway.addresses import PEER
from gateway.bodies import JSON
from gateway.exchange import Request
from gateway.principals import Principal

GENERATE = "/api/v1/generate"


def request_of(principal: Principal, path: str, body: bytes, headers: Mapping[str, str]) -> Request:
    """A POST of JSON that is here already. Who waits for it cancels it by leaving."""

    async def read(limit: int) -> bytes:
        if len(body) > limit:
            raise TooLarge(f"a body of {len(body)} bytes", mend=f"send at most {limit} bytes")
        return body

    return Request(
        method="POST",
        path=path,
        headers={"content-type": JSON, **headers},
        body=read,
        request_id=new_id(),
        principal=principal,
        address=PEER.get(),
    )
