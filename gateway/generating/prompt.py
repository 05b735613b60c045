"""`POST /api/v1/generate`: a prompt, answered as a whole or as server-sent events.

    {"prompt": "...", "max_tokens": 64, "stream": true}

Further fields: model, temperature (0 unless given, so that an answer can be repeated), top_p, stop, seed,
presence_penalty, frequency_penalty. The prompt is put into the model's chat template by its server. A body
that is not in order is 400.

As events: `text`, `continued` or `restarted` where a server died meanwhile, and `answer`, the whole, or
`problem` at the end.
"""

from collections.abc import AsyncGenerator

import msgspec

from core.errors import Malformed, MillstreamError, Rejected
from gateway.exchange import Request, Response
from gateway.generating.asked import UnderWay
from gateway.generating.question import CLIENT_GONE, Questions, streamed, whole
from gateway.problems import InvalidBody, problem_of
from operators.generate_request import parse_prompt

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ANEW = b'{"reason": "the process that answered was replaced"}'


class GenerateEndpoint:
    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    async def post(self, request: Request) -> Response:
        """Raises InvalidBody, TooLarge, UnknownName, QueueFull, DeadlineExceeded, ServerFailed."""
        try:
            asked, body = await self._questions.read(request, parse_prompt)
        except Rejected as error:
            raise InvalidBody.of(error) from error
        events = asked.stream or "text/event-stream" in request.headers.get("accept", "").lower()
        under_way = await self._questions.ask(request, body, streamed=events)
        if events:
            return await streamed(under_way, request, lambda asked: _events(asked, request.request_id))
        try:
            answer = await whole(under_way, request)
        except Rejected as error:
            raise InvalidBody.of(error) from error
        if answer is None:
            return Response(CLIENT_GONE)
        return Response(answer.status, answer.body)


async def _events(under_way: UnderWay, request_id: str) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in under_way.pieces():
            if piece is None:
                yield _event("restarted", _ANEW)
                continue
            for line in piece.splitlines():
                said = _line(line)
                if "text" in said:
                    yield _event("text", line)
                    continue
                for name, value in said.items():
                    yield _event(name, bytes(value))
        answer = await under_way.end()
        yield _event("answer", answer.body)
    except MillstreamError as error:
        yield _event("problem", _encode(problem_of(error, request_id)))


def _line(line: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode(line)
    except msgspec.MsgspecError:
        raise Malformed("a piece of the answer cannot be read") from None


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
