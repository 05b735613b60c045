"""`POST /v1/chat/completions`, as OpenAI's clients know it.

https://platform.openai.com/docs/api-reference/chat. Text only, one choice. Beyond OpenAI's fields an answer
has `statistics`, and where a server died meanwhile a chunk has `millstream` with `continued` or `restarted`;
where an answer begins anew its text says so, too, since what was sent cannot be taken back. Errors have
OpenAI's shape with the status and the code of ours.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from core.clock import Clock
from core.errors import Malformed, MillstreamError
from core.settings import Llm
from gateway.exchange import Request, Response, json_response
from gateway.generating.asked import UnderWay
from gateway.generating.question import CLIENT_GONE, Questions, streamed, whole
from gateway.problems import problem_headers, problem_of
from operators.generate_answer import Generated
from operators.generate_request import parse_chat

ANEW = "\n\n[The answer begins anew.]\n\n"
_encode = msgspec.json.Encoder().encode
_generated = msgspec.json.Decoder(Generated).decode
_INVALID = "invalid_request_error"
_TYPES = {400: _INVALID, 404: "not_found_error", 409: "conflict_error", 422: _INVALID}


class _Piece(msgspec.Struct):
    text: str = ""
    model: str | None = None
    continued: dict[str, Any] | None = None
    restarted: dict[str, Any] | None = None


class _Options(msgspec.Struct):
    include_usage: bool = False


class _Streaming(msgspec.Struct):
    model: str | None = None
    stream_options: _Options | None = None


_piece = msgspec.json.Decoder(_Piece).decode
_streaming = msgspec.json.Decoder(_Streaming).decode


class ChatEndpoint:
    def __init__(self, settings: Llm, questions: Questions, clock: Clock) -> None:
        self._settings = settings
        self._questions = questions
        self._clock = clock

    async def post(self, request: Request) -> Response:
        """Never raises MillstreamError: errors have OpenAI's shape."""
        try:
            return await self._post(request)
        except MillstreamError as error:
            return error_response(error, request.request_id)

    async def _post(self, request: Request) -> Response:
        asked, body = await self._questions.read(request, parse_chat)
        under_way = await self._questions.ask(request, body, streamed=asked.stream)
        head = {
            "id": f"chatcmpl-{request.request_id}",
            "created": int(self._clock.now().timestamp()),
            "model": asked.model or self._settings.addresses[0][0],
        }
        if asked.stream:
            try:
                options = _streaming(body).stream_options
            except msgspec.MsgspecError as error:
                raise Malformed(f"stream_options: {error}") from None
            usage = options is not None and options.include_usage
            chunks = _Chunks(head, usage=usage, request_id=request.request_id)
            return await streamed(under_way, request, chunks.of)
        answer = await whole(under_way, request)
        if answer is None:
            return Response(CLIENT_GONE)
        given = _generated(answer.body)
        message = {"role": "assistant", "content": given.text}
        choice = {"index": 0, "message": message, "finish_reason": given.finish_reason, "logprobs": None}
        return json_response(
            200,
            head
            | {
                "object": "chat.completion",
                "model": given.model,
                "choices": [choice],
                "usage": _usage(given),
                "statistics": given.statistics,
                "degraded": given.degraded,
            },
        )


class _Chunks:
    """A stream in OpenAI's shape."""

    def __init__(self, head: dict[str, Any], *, usage: bool, request_id: str) -> None:
        self._head = head | {"object": "chat.completion.chunk"}
        self._usage = usage
        self._request_id = request_id

    async def of(self, under_way: UnderWay) -> AsyncGenerator[bytes, None]:
        """Each chunk names the model that says it, which may be another than the one before."""
        begun = False
        try:
            async for data in under_way.pieces():
                if not begun:
                    begun = True
                    self._named(data)
                    yield self._chunk({"role": "assistant", "content": ""})
                if data is None:
                    restarted = {"reason": "the process that answered was replaced"}
                    yield self._chunk({"content": ANEW}, millstream={"restarted": restarted})
                    continue
                for line in data.splitlines():
                    piece = _piece(line)
                    if piece.model is not None:
                        self._head["model"] = piece.model
                    if piece.text:
                        yield self._chunk({"content": piece.text})
                    elif piece.continued is not None:
                        yield self._chunk({"content": ""}, millstream={"continued": piece.continued})
                    elif piece.restarted is not None:
                        yield self._chunk({"content": ANEW}, millstream={"restarted": piece.restarted})
            given = _generated((await under_way.end()).body)
            self._head["model"] = given.model
            if not begun:
                yield self._chunk({"role": "assistant", "content": ""})
        except MillstreamError as error:
            yield b"data: " + _encode(_error(error, self._request_id)) + b"\n\n"
            return
        yield self._chunk({}, given.finish_reason, statistics=given.statistics, degraded=given.degraded)
        if self._usage:
            yield b"data: " + _encode(self._head | {"choices": [], "usage": _usage(given)}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _named(self, data: bytes | None) -> None:
        for line in (data or b"").splitlines()[:1]:
            self._head["model"] = _piece(line).model or self._head["model"]

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return b"data: " + _encode(self._head | {"choices": [choice]} | more) + b"\n\n"


def error_response(error: BaseException, request_id: str) -> Response:
    """An error in OpenAI's shape."""
    problem = problem_of(error, request_id)
    answer = json_response(problem.status, _error(error, request_id), problem_headers(error))
    answer.error = error
    return answer


def _error(error: BaseException, request_id: str) -> dict[str, Any]:
    problem = problem_of(error, request_id)
    fields = [f"{field.pointer} {field.reason}" for field in problem.errors]
    parameter = problem.errors[0].pointer.strip("/").replace("/", ".") if problem.errors else None
    return {
        "error": {
            "message": "; ".join([problem.detail, *fields]),
            "type": _TYPES.get(problem.status, "server_error"),
            "param": parameter,
            "code": problem.code,
        }
    }


def _usage(given: Generated) -> dict[str, Any]:
    usage = given.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
