"""Operations that ask language models, in our shape and in OpenAI's."""

from typing import Any

from core.settings import Llm
from gateway.documents.answers import ChatCompletion, OpenAIError, OpenAIModel, OpenAIModels
from gateway.documents.operations import (
    EVENT_STREAM,
    EVENTS,
    JSON,
    Answer,
    Codes,
    Operation,
    Operations,
    Parameter,
    json_answer,
    merged,
)
from gateway.documents.problems import JSON_BODY, PUBLISHED, SERVER_CODES, STRICT_JSON
from gateway.documents.schemas import STRING, Schema, Schemas, array, nullable, record
from gateway.documents.served import Served
from gateway.generating.batch_status import Totals
from operators.generate_answer import Generated
from operators.generate_request import MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, NUMBERS, ROLES

TAG = "Language models"
_ASKED: Codes = merged(
    JSON_BODY,
    STRICT_JSON,
    PUBLISHED,
    {
        400: ("invalid_key", "invalid_request"),
        404: ("unknown_model",),
        409: ("conflict",),
        413: ("over_burst",),
        503: (
            "cancelled", "no_earlier_answer", "no_server", "paid_without_answer", "replies_unavailable",
            "schema_not_registered", "unavailable", *SERVER_CODES,
        ),
        504: ("deadline_exceeded",),
    },
)  # fmt: skip
_RELAYED = frozenset({400, 503})


def generating(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    llm = served.settings.llm
    paths = {
        "POST /api/v1/generate": _prompt(llm, schemas),
        "POST /v1/chat/completions": _chat(llm, schemas),
        "GET /v1/models": _models(schemas),
        "GET /v1/models/{model}": _model(schemas),
        "GET /api/v1/batch/status": _status(schemas),
    }
    return {route: {route.partition(" ")[2]: operation} for route, operation in paths.items()}


def question(llm: Llm) -> dict[str, Schema]:
    """The fields that a prompt and a chat have in common."""
    stop: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
    numbers = {
        name: {"type": "number", "minimum": low, "maximum": high} for name, (low, high) in NUMBERS.items()
    }
    fields: dict[str, Schema] = {
        "model": {"type": "string", "minLength": 1},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": llm.max_tokens},
        "seed": {"type": "integer", "minimum": -(2**31), "maximum": 2**32 - 1},
        "stop": {"anyOf": [stop, array(stop, most=MAX_STOPS)]},
        "stream": {"type": "boolean"},
        **numbers,
    }
    return {name: nullable(schema) for name, schema in fields.items()}


def prompt_body(llm: Llm) -> Schema:
    text = {
        "type": "string",
        "pattern": r"\S",
        "maxLength": llm.max_prompt_bytes,
        "description": f"at most {llm.max_prompt_bytes} bytes",
    }
    return record({"prompt": text, **question(llm)}, required=("prompt",))


def chat_body(llm: Llm) -> Schema:
    parts = array({"type": "object", "properties": {"text": STRING}, "required": ["text"]}, least=1)
    message: Schema = {
        "type": "object",
        "properties": {"role": {"enum": list(ROLES)}, "content": {"anyOf": [STRING, parts]}},
        "required": ["role", "content"],
    }
    given = question(llm)
    options = {"include_usage": {"type": "boolean"}}
    more: dict[str, Any] = {
        "messages": array(message, least=1, most=MAX_MESSAGES),
        "max_completion_tokens": given["max_tokens"],
        "n": {"enum": [1, None]},
        "continue_final_message": nullable({"type": "boolean"}),
        "user": {},
        "metadata": {},
        "store": {},
        "stream_options": nullable({"type": "object", "properties": options}),
    }
    return record(given | more, required=("messages",))


def _prompt(llm: Llm, schemas: Schemas) -> Operation:
    return Operation(
        summary="Answer a prompt",
        tag=TAG,
        description=(
            f"The answer is waited for {llm.wait_s:g} s. With `stream`, or `Accept: text/event-stream`, it "
            "comes as events: `text`, `continued` or `restarted` where a server died meanwhile, and "
            "`answer`, the whole, or `problem` at the end. The temperature is 0 unless given, so that an "
            "answer can be repeated."
        ),
        body={JSON: schemas.add("Prompt", prompt_body(llm))},
        request=("Idempotency-Key",),
        answers={
            200: Answer("The answer.", {JSON: schemas.of(Generated), EVENT_STREAM: EVENTS}),
        },
        problems=_ASKED,
        relayed=_RELAYED,
    )


def _chat(llm: Llm, schemas: Schemas) -> Operation:
    return Operation(
        summary="Complete a chat, as OpenAI's clients ask for it",
        tag=TAG,
        description=(
            "Text only, one choice. Beyond OpenAI's fields an answer has `statistics`, and a chunk has "
            "`millstream` where a server died meanwhile. With `continue_final_message` the answer goes on "
            "after the last message, where that is the assistant's; a model server that cannot refuses it. "
            "Errors have OpenAI's shape with our status and code."
        ),
        body={JSON: schemas.add("Chat", chat_body(llm))},
        request=("Idempotency-Key",),
        answers={
            200: Answer("The completion.", {JSON: schemas.of(ChatCompletion), EVENT_STREAM: EVENTS}),
        },
        problems=merged(_ASKED, {422: ("invalid_request",)}),
        relayed=_RELAYED | {422},
        problem=schemas.of(OpenAIError),
        problem_type=JSON,
    )


def _models(schemas: Schemas) -> Operation:
    return Operation(
        summary="The models that can be asked, as OpenAI's clients know them",
        tag=TAG,
        answers={200: json_answer("The models.", schemas.of(OpenAIModels))},
        problem=schemas.of(OpenAIError),
        problem_type=JSON,
    )


def _model(schemas: Schemas) -> Operation:
    return Operation(
        summary="One of the models that can be asked, as OpenAI's clients know it",
        tag=TAG,
        answers={200: json_answer("The model.", schemas.of(OpenAIModel))},
        path=(Parameter("model", "its name"),),
        problems={404: ("unknown_model",)},
        problem=schemas.of(OpenAIError),
        problem_type=JSON,
    )


def _status(schemas: Schemas) -> Operation:
    return Operation(
        summary="Queue, batches and success of the processes that answer",
        tag=TAG,
        answers={200: json_answer("All of them as one, and each.", schemas.of(Totals))},
        problems={503: ("unavailable",)},
        relayed=frozenset({503}),
    )
