"""Operations that are handed on: the Open Inference Protocol at `/v2`, and OpenAI's embeddings."""

from core.settings import Embeddings
from gateway.documents.answers import OpenAIError
from gateway.documents.forwarded_answers import (
    Embedded,
    InferenceError,
    InferenceLive,
    InferenceModel,
    InferenceModelReady,
    InferenceReady,
    InferenceServer,
    Inferred,
)
from gateway.documents.operations import (
    JSON,
    Answer,
    Codes,
    Operation,
    Operations,
    Parameter,
    json_answer,
    merged,
)
from gateway.documents.problems import BODY, JSON_BODY, SERVER_CODES, STRICT_JSON
from gateway.documents.schemas import STRING, Schema, Schemas, array, nullable, record
from gateway.documents.served import Served
from operators.embed_request import FORMATS

TAG = "Open Inference Protocol"
BYTES = "application/octet-stream"
_UPSTREAM: Codes = {503: ("queue_full", *SERVER_CODES), 504: ("deadline_exceeded",)}
_MODEL = Parameter("model", "the name of the model")
_VERSION = Parameter("version", "a version in service")


def forwarding(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    paths = {
        "GET /v2/health/live": _probe("Whether the gateway lives", schemas.of(InferenceLive), schemas),
        "GET /v2/health/ready": _probe("Whether models can be asked", schemas.of(InferenceReady), schemas),
        "GET /v2": _read("The server and its extensions", schemas.of(InferenceServer), schemas),
        "POST /v1/embeddings": _embeddings(served.settings.embeddings, schemas),
    }
    for path, parts in ((model, (_MODEL,)), (version, (_MODEL, _VERSION))):
        paths[f"GET {path}"] = _read("A model", schemas.of(InferenceModel), schemas, *parts)
        ready = schemas.of(InferenceModelReady)
        paths[f"GET {path}/ready"] = _read("Whether it is ready", ready, schemas, *parts)
        paths[f"POST {path}/infer"] = _infer(schemas, *parts)
    return {route: {route.partition(" ")[2]: operation} for route, operation in paths.items()}


def _probe(summary: str, schema: Schema, schemas: Schemas) -> Operation:
    return Operation(
        summary=summary,
        tag=TAG,
        answers={200: json_answer("Yes.", schema), 503: json_answer("No.", schema)},
        problem=schemas.of(InferenceError),
        problem_type=JSON,
    )


def _read(summary: str, schema: Schema, schemas: Schemas, *path: Parameter) -> Operation:
    unknown: Codes = {404: ("unknown_model", "unknown_model_version")} if path else {}
    return Operation(
        summary=summary,
        tag=TAG,
        path=path,
        answers={200: json_answer("It is there.", schema)},
        problems=merged(_UPSTREAM, unknown),
        problem=schemas.of(InferenceError),
        problem_type=JSON,
    )


def _infer(schemas: Schemas, *path: Parameter) -> Operation:
    anything: Schema = {"type": "object"}
    tensor = record(
        {
            "name": STRING,
            "shape": array({"type": "integer"}),
            "datatype": STRING,
            "data": {"type": "array"},
            "parameters": nullable(anything),
        },
        required=("name", "shape", "datatype"),
    )
    body = record(
        {
            "id": nullable(STRING),
            "inputs": array(schemas.add("InferenceInput", tensor), least=1),
            "outputs": nullable(array(anything)),
            "parameters": nullable(anything),
        },
        required=("inputs",),
    )
    schema = schemas.of(Inferred)
    return Operation(
        summary="Ask a model, as clients of the Open Inference Protocol do",
        tag=TAG,
        description=(
            "One input `inputs` of shape [rows, columns], or one input per column, of shape [rows]. Tensors "
            "may come, and go, as bytes behind the JSON, whose length is then stated by "
            "`Inference-Header-Content-Length`; NaN is a missing value. `assignment_unit` of the parameters, "
            "or else the id, is whose version answers during a canary. The tenant is that of the credential, "
            "whatever the parameters say."
        ),
        path=path,
        body={JSON: schemas.add("InferenceRequest", body), BYTES: {}},
        answers={200: Answer("The outputs.", {JSON: schema, BYTES: {}})},
        problems=merged(
            BODY,
            STRICT_JSON,
            _UPSTREAM,
            {
                404: ("unknown_model", "unknown_model_version"),
                415: ("unsupported_media_type",),
                422: ("invalid_record",),
            },
        ),
        problem=schemas.of(InferenceError),
        problem_type=JSON,
    )


def embedding_body(own: Embeddings) -> Schema:
    text: Schema = {"type": "string", "pattern": r"\S"}
    return record(
        {
            "input": {"anyOf": [text, array(text, least=1, most=own.inputs)]},
            "model": nullable({"enum": [own.model]}),
            "encoding_format": nullable({"enum": list(FORMATS)}),
            "dimensions": {"enum": [None]},
            "user": {},
        },
        required=("input",),
    )


def _embeddings(own: Embeddings, schemas: Schemas) -> Operation:
    return Operation(
        summary="Vectors of texts, as OpenAI's clients ask for them",
        tag="Language models",
        description=(
            f"At most {own.inputs} texts of {own.input_tokens} tokens, and {own.request_tokens} together. "
            "Vectors have length 1, so that their dot product is the cosine of their angle."
        ),
        body={JSON: schemas.add("TextsToEmbed", embedding_body(own))},
        answers={200: json_answer("The vectors, in the order of the texts.", schemas.of(Embedded))},
        problems=merged(
            JSON_BODY,
            STRICT_JSON,
            _UPSTREAM,
            {404: ("unknown_model",), 413: ("over_burst",), 422: ("invalid_request",)},
        ),
        problem=schemas.of(OpenAIError),
        problem_type=JSON,
    )
