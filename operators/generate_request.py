"""What may be asked of an LLM: a prompt, or a conversation in the form of OpenAI's chat completions.

    {"prompt": "...", "max_tokens": 64}
    {"messages": [{"role": "user", "content": "..."}], "temperature": 0.7}
    {"messages": [..., {"role": "assistant", "content": "Dear si"}], "continue_final_message": true}

With `continue_final_message`, which vLLM, SGLang and llama.cpp know by that name, a turn of the assistant
that ends the conversation is the beginning of the answer, which goes on after it.

Every field that is wrong is named. A field that is not known, or asks for what is not offered here (tools,
several choices), is refused rather than passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from core.errors import Malformed, Rejected
from core.ids import digest
from operators.generate_ports import Completion, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_MESSAGES = 256
_COMMON = ("model", "max_tokens", "temperature", "top_p", "stop", "seed", "stream", "presence_penalty")
_PROMPT_FIELDS = frozenset((*_COMMON, "prompt", "frequency_penalty"))
_IGNORED = frozenset(("user", "metadata", "store", "stream_options"))
_CHAT_OWN = ("messages", "max_completion_tokens", "n", "continue_final_message")
_CHAT_FIELDS = frozenset((*_PROMPT_FIELDS - {"prompt"}, *_CHAT_OWN, *_IGNORED))
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True)
class Limits:
    """`prompt_bytes`: of all text to be read. `tokens` at most may be asked for, `default_tokens` are where
    the question does not say."""

    prompt_bytes: int = 32_768
    tokens: int = 1024
    default_tokens: int = 256


@dataclass(frozen=True)
class Generation:
    """A question that is in order. `model` is None where the active one is meant."""

    completion: Completion
    model: str | None
    stream: bool

    @property
    def repeatable(self) -> bool:
        """Whether the same question has the same answer, so that it may be kept."""
        return self.completion.temperature == 0.0 or self.completion.seed is not None

    def key(self, tenant: str, model: str) -> str:
        """What an answer is kept under."""
        return digest(_encode([tenant, model, msgspec.to_builtins(self.completion)]))


def parse(body: bytes, limits: Limits) -> Generation:
    """A prompt or a conversation. Raises Malformed for what is no JSON object in UTF-8, Rejected with every
    wrong field otherwise."""
    given = _object(body)
    return _chat(given, limits) if "messages" in given and "prompt" not in given else _prompt(given, limits)


def parse_prompt(body: bytes, limits: Limits) -> Generation:
    return _prompt(_object(body), limits)


def parse_chat(body: bytes, limits: Limits) -> Generation:
    return _chat(_object(body), limits)


def _object(body: bytes) -> dict[str, Any]:
    try:
        body.decode("utf-8")
        value = _decode(body)
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8: byte {error.start}", mend="send UTF-8") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(f"no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise Malformed("the body is no JSON object")
    return value


def _prompt(given: Mapping[str, Any], limits: Limits) -> Generation:
    wrong = _unknown(given, _PROMPT_FIELDS)
    prompt = given.get("prompt")
    if "prompt" not in given:
        wrong["/prompt"] = "is missing"
    elif not isinstance(prompt, str):
        wrong["/prompt"] = "is no text"
    elif not prompt.strip():
        wrong["/prompt"] = "is empty"
    messages = (Message("user", prompt if isinstance(prompt, str) else ""),)
    # the same prompt has the same answer unless asked otherwise
    return _generation({"temperature": 0.0, **given}, messages, "/prompt", wrong, limits)


def _chat(given: Mapping[str, Any], limits: Limits) -> Generation:
    wrong = _unknown(given, _CHAT_FIELDS)
    number = given.get("n")
    if number is not None and (isinstance(number, bool) or number != 1):
        wrong["/n"] = "one answer is given"
    if "max_completion_tokens" in given:
        _whole(given, "max_tokens", 1, limits.tokens, wrong)  # the other one counts; this is not passed over
        given = {**given, "max_tokens": given["max_completion_tokens"]}
    messages = _messages(given.get("messages"), wrong)
    goes_on = _flag(given, "continue_final_message", wrong)
    generation = _generation(given, messages, "/messages", wrong, limits)
    if not goes_on or messages[-1].role != "assistant":
        return generation
    return replace(generation, completion=replace(generation.completion, open=True))


def _messages(given: Any, wrong: dict[str, str]) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        wrong["/messages"] = "is no list of messages" if given != [] else "is empty"
        return ()
    if len(given) > MAX_MESSAGES:
        wrong["/messages"] = f"has {len(given)} messages, at most {MAX_MESSAGES} are taken"
        return ()
    found = []
    for number, one in enumerate(given):
        at = f"/messages/{number}"
        role = one.get("role") if isinstance(one, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            wrong[f"{at}/role"] = f"is none of {', '.join(ROLES)}"
            continue
        text = _text(one.get("content"))
        if text is None:
            wrong[f"{at}/content"] = "is no text and no list of text parts"
        elif not text.strip():
            wrong[f"{at}/content"] = "is empty"
        else:
            found.append(Message(ROLES[role], text))
    return tuple(found)


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        return None
    return "".join(part for part in parts if part is not None)


def _generation(
    given: Mapping[str, Any], messages: tuple[Message, ...], at: str, wrong: dict[str, str], limits: Limits
) -> Generation:
    size = sum(len(message.content.encode("utf-8")) for message in messages)
    if size > limits.prompt_bytes:
        wrong[at] = f"has {size} bytes, at most {limits.prompt_bytes} are taken"
    model = given.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        wrong["/model"] = "is no name of a model"
    stream = _flag(given, "stream", wrong)
    numbers = {name: _number(given, name, *bounds, wrong) for name, bounds in NUMBERS.items()}
    tokens = _whole(given, "max_tokens", 1, limits.tokens, wrong)
    seed = _whole(given, "seed", -(2**31), 2**32 - 1, wrong)
    stop = _stops(given.get("stop"), wrong)
    if wrong:
        raise Rejected("the question is not in order", fields=wrong, code="invalid_request")
    completion = Completion(
        messages,
        tokens or min(limits.default_tokens, limits.tokens),
        temperature=numbers["temperature"],
        top_p=numbers["top_p"],
        presence_penalty=numbers["presence_penalty"],
        frequency_penalty=numbers["frequency_penalty"],
        stop=stop,
        seed=seed,
    )
    return Generation(completion, model or None, stream)


def _flag(given: Mapping[str, Any], name: str, wrong: dict[str, str]) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        wrong[f"/{name}"] = "is neither true nor false"
    return value is True


def _number(
    given: Mapping[str, Any], name: str, least: float, most: float, wrong: dict[str, str]
) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong[f"/{name}"] = "is no number"
    elif not least <= value <= most:
        wrong[f"/{name}"] = f"is not within {least:g} and {most:g}"
    else:
        return float(value)
    return None


def _whole(given: Mapping[str, Any], name: str, least: int, most: int, wrong: dict[str, str]) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        wrong[f"/{name}"] = "is no whole number"
    elif not least <= value <= most:
        wrong[f"/{name}"] = f"is not within {least} and {most}"
    else:
        return value
    return None


def _stops(given: Any, wrong: dict[str, str]) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given if given is not None else []
    good = (
        isinstance(stops, list)
        and len(stops) <= MAX_STOPS
        and all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops)
    )
    if not good:
        wrong["/stop"] = f"is no list of up to {MAX_STOPS} texts of up to {MAX_STOP_CHARACTERS} characters"
        return ()
    return tuple(stops)


def _unknown(given: Mapping[str, Any], known: frozenset[str]) -> dict[str, str]:
    return {f"/{name[:64]}": "is not offered here" for name in given if name not in known}
