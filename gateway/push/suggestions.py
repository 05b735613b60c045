"""Suggestions while somebody types: each prompt supersedes the one before it on the same socket.

A prompt that was answered before, or that goes on as an earlier suggestion said, is answered from a prefix
cache; else a model is asked over Kafka how the text goes on, and what it has said so far is told piece by
piece. The cache is this gateway's own: another one asks again, and the answering process has answers of its
own kept.

What was typed is asked for as the beginning of the model's own answer, so that nothing follows it in the
model's prompt: a server that keeps its last prompt reads the new keystrokes, and no more. Of 60 prompts that
differ in their last words the local model reads 4.5 tokens (the median), 10.5 where they are the user's turn,
which the template closes; and a small model goes on with a text of its own, where it repeats the user's. A
server that refuses such a beginning is asked in words.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec

from core.clock import Clock
from core.errors import InvalidInput
from core.telemetry.metrics import counter, histogram
from gateway.admission import Admission
from gateway.generating.asked import UnderWay
from gateway.generating.question import Questions
from gateway.principals import Principal
from gateway.push import frames
from gateway.push.requests import GENERATE, request_of
from operators.generate_answer import Generated
from operators.generate_request import parse_chat

LONGEST_PROMPT = 4_096
LONGEST_SUGGESTION = 256
OPENING = "Write a text."
INSTRUCTION = (
    "Continue the text of the user. Answer with nothing but the words that follow it, without repeating it."
)
IN_WORDS_FOR = timedelta(minutes=5)
"""A model whose server refused a beginning, and answered in words, is asked in words for so long."""
_SUGGESTED = counter(
    "gateway_suggestions_total", "Suggestions to prompts, by where they came from", ["source"]
)
_FIRST_MS = histogram("gateway_suggestion_ms", "From a prompt to the first of its suggestion", ["source"])
_encode = msgspec.json.Encoder().encode


class _Said(msgspec.Struct, frozen=True):
    """A line of a piece (see `operators.generate`); what else it has is not of interest here."""

    text: str = ""
    restarted: msgspec.Raw | None = None


_said = msgspec.json.Decoder(_Said).decode
_generated = msgspec.json.Decoder(Generated).decode


class PrefixCache:
    """How texts went on, by scope and text: the newest `entries`, each for `ttl`."""

    def __init__(self, *, entries: int, ttl: timedelta, clock: Clock) -> None:
        self._most = entries
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, scope: str, prompt: str, continuation: str) -> None:
        """Texts that are too long, and continuations that say nothing, are not kept."""
        if not continuation or len(prompt) > LONGEST_PROMPT or len(continuation) > LONGEST_SUGGESTION:
            return
        self._kept[scope, prompt] = (self._clock.monotonic() + self._ttl_s, continuation)
        self._kept.move_to_end((scope, prompt))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def find(self, scope: str, prompt: str) -> str | None:
        """What follows `prompt`, by the longest prefix of it whose continuation began as `prompt` does and
        goes on after it."""
        if len(prompt) > LONGEST_PROMPT + LONGEST_SUGGESTION:
            return None
        now = self._clock.monotonic()
        for typed in range(min(len(prompt), LONGEST_SUGGESTION)):
            cut = len(prompt) - typed
            held = self._kept.get((scope, prompt[:cut]))
            if held is None or now >= held[0]:
                continue
            if len(held[1]) > typed and held[1].startswith(prompt[cut:]):
                return held[1][typed:]
        return None


class Suggestions:
    """Where suggestions come from."""

    def __init__(
        self, questions: Questions, admission: Admission, clock: Clock, *, cache: PrefixCache
    ) -> None:
        self._questions = questions
        self._admission = admission
        self._clock = clock
        self._cache = cache
        self._in_words: dict[str | None, float] = {}

    async def of(self, principal: Principal, frame: frames.Prompt) -> AsyncIterator[frames.Suggestion]:
        """What is known so far, again and again, until it is final. Raises OverLimit, Forbidden, Rejected,
        QueueFull, Unavailable. Leaving it early cancels the question.

        Each prompt counts as a request; only one that a model is asked takes tokens and passes the breaker.
        """
        begun = self._clock.monotonic()
        in_words = begun < self._in_words.get(frame.model, begun)
        request = request_of(principal, GENERATE, _in_words(frame) if in_words else _begun(frame), {})
        route = await self._admission.called(request)
        scope = f"{principal.tenant}\x00{frame.model}\x00{frame.max_tokens}"
        found = self._cache.find(scope, frame.prompt)
        if found is not None:
            _told("cache", self._clock.monotonic() - begun)
            yield frames.Suggestion(frame.id, "cache", found, True)
            return
        first = True
        async with self._admission.visiting(route, request):
            _, body = await self._questions.read(request, parse_chat)
            refused = False
            while True:
                spaced = not in_words and frame.prompt[-1:].isspace()
                try:
                    async with await self._questions.ask(request, body, streamed=True) as under_way:
                        async for text in _texts(under_way, spaced=spaced):
                            if first:
                                first = False
                                _told("model", self._clock.monotonic() - begun)
                            yield frames.Suggestion(frame.id, "model", text, False)
                        answer = _generated((await under_way.end()).body)
                    break
                except InvalidInput as error:
                    # the kinds of it say what else is wrong: the prompt is too long, there is no such model
                    if in_words or type(error) is not InvalidInput:
                        raise
                in_words = refused = True
                body = _in_words(frame)
                request = request_of(principal, GENERATE, body, {})  # another question has another id
            if refused:
                until = self._clock.monotonic() + IN_WORDS_FOR.total_seconds()
                self._in_words[frame.model] = until
        text = answer.text.lstrip() if spaced else answer.text
        if not answer.degraded:
            self._cache.put(scope, frame.prompt, text)
        yield frames.Suggestion(frame.id, "model", text, True)


async def _texts(under_way: UnderWay, *, spaced: bool) -> AsyncIterator[str]:
    """The text so far, after each piece that added to it. `spaced`: the space before it was typed already."""
    text = ""
    async for piece in under_way.pieces():
        if piece is None:
            text = ""
            continue
        before = text
        for line in piece.splitlines():
            said = _said(line)
            text = said.text if said.restarted is not None else text + said.text
            text = text.lstrip() if spaced else text
        if text and text != before:
            yield text


def _told(source: str, seconds: float) -> None:
    _SUGGESTED.labels(source).inc()
    _FIRST_MS.labels(source).observe(seconds * 1e3)


def _begun(frame: frames.Prompt) -> bytes:
    """What was typed as the beginning of the answer. Space at its end is the model's to say, with the word
    that follows it: after "The capital of France is " it says "21", without the space " Paris"."""
    typed = {"role": "assistant", "content": frame.prompt.rstrip()}
    messages = [{"role": "user", "content": OPENING}, typed]
    return _body(frame, {"messages": messages, "continue_final_message": True})


def _in_words(frame: frames.Prompt) -> bytes:
    typed = {"role": "user", "content": frame.prompt}
    return _body(frame, {"messages": [{"role": "system", "content": INSTRUCTION}, typed]})


def _body(frame: frames.Prompt, asked: dict[str, Any]) -> bytes:
    question = asked | {"max_tokens": frame.max_tokens, "temperature": 0, "stream": True}
    return _encode(question if frame.model is None else question | {"model": frame.model})
