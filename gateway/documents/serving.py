"""Operations on models and their trainings, and the registry's webhook."""

from gateway.documents.answers import Changed, LoadBegun, TrainingJob, TrainingJobs
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
from gateway.documents.problems import BODY, JSON_BODY, PUBLISHED, STRICT_JSON
from gateway.documents.reading import SEGMENT, limit
from gateway.documents.schemas import STRING, Schema, Schemas, array, record
from gateway.documents.served import Served
from gateway.models import PATH as MODELS
from gateway.models import LoadBody, ModelView, RollbackBody, SwapBody, SwapProblem
from gateway.registry_webhook import PATH as WEBHOOK
from gateway.training import OPERATORS
from gateway.training import PATH as TRAINING
from pipelines.serving.fleet import VersionView
from pipelines.serving.safety import SafetyReport
from pipelines.training.configuration import Configuration

_MODELS, _TRAINING = "Models", "Training"
_UNKNOWN: Codes = {404: ("unknown_model", "unknown_model_version"), 503: ("unavailable",)}
_COMMAND: Codes = merged(
    _UNKNOWN,
    PUBLISHED,
    {
        400: ("invalid_request",),
        409: ("stale_revision",),
        503: ("registry_unavailable", "schema_not_registered"),
        504: ("deadline_exceeded",),
    },
)
_BODY: Codes = merged(JSON_BODY, STRICT_JSON)
_VERSION = Parameter("id", "`model:version`.", SEGMENT)
_AWAITED = "A command to the controller, whose reply is awaited."


def serving(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    named = f"{MODELS}/{{id}}"
    return {
        f"GET {MODELS}": {MODELS: _models(schemas)},
        f"POST {MODELS}": {MODELS: _load(schemas)},
        f"POST {MODELS}/swap": {f"{MODELS}/swap": _swap(schemas)},
        f"POST {MODELS}/rollback": {f"{MODELS}/rollback": _rollback(schemas)},
        f"GET {named}": {named: _model(schemas)},
        f"DELETE {named}": {named: _remove()},
        f"GET {named}/swap/safety": {f"{named}/swap/safety": _safety(schemas)},
        f"POST {WEBHOOK}": {WEBHOOK: _webhook()},
    }


def training(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    named = f"{TRAINING}/{{id}}"
    return {
        f"POST {TRAINING}": {TRAINING: _train(schemas)},
        f"GET {TRAINING}": {TRAINING: _trainings(schemas)},
        f"GET {named}": {named: _training(schemas)},
        f"POST {named}/acknowledge": {f"{named}/acknowledge": _acknowledge(schemas)},
    }


def _models(schemas: Schemas) -> Operation:
    return Operation(
        summary="Every model: its routing and its versions, as the living workers see them",
        tag=_MODELS,
        answers={200: json_answer("The models.", record({"models": array(schemas.of(ModelView))}))},
        problems={503: ("unavailable",)},
    )


def _model(schemas: Schemas) -> Operation:
    both: Schema = {"oneOf": [schemas.of(ModelView), schemas.of(VersionView)]}
    return Operation(
        summary="One version, or all of a model",
        tag=_MODELS,
        path=(Parameter("id", "`model`, or `model:version`.", SEGMENT),),
        answers={200: json_answer("The model, or the version.", both)},
        problems=_UNKNOWN,
    )


def _safety(schemas: Schemas) -> Operation:
    return Operation(
        summary="Whether a swap to the version is safe now",
        tag=_MODELS,
        path=(_VERSION,),
        answers={200: json_answer("Five checks, each with its reason.", schemas.of(SafetyReport))},
        problems=merged(_UNKNOWN, {400: ("invalid_request",)}),
    )


def _load(schemas: Schemas) -> Operation:
    return Operation(
        summary="Load a version beside what serves",
        tag=_MODELS,
        description=_AWAITED,
        body={JSON: schemas.of(LoadBody)},
        answers={202: json_answer("It is being loaded.", schemas.of(LoadBegun), "Location")},
        problems=merged(_COMMAND, _BODY, {400: ("load_refused",)}),
    )


def _swap(schemas: Schemas) -> Operation:
    return Operation(
        summary="Let another version answer, at once",
        tag=_MODELS,
        description=f"{_AWAITED} No record is lost or doubled: workers change between two batches.",
        body={JSON: schemas.of(SwapBody)},
        answers={200: json_answer("It serves.", schemas.of(Changed))},
        problems=merged(_COMMAND, _BODY, {400: ("swap_unsafe", "swap_refused"), 500: ("swap_failed",)}),
        differing=_with_checks(schemas),
    )


def _rollback(schemas: Schemas) -> Operation:
    return Operation(
        summary="Let the version before answer again",
        tag=_MODELS,
        description=_AWAITED,
        body={JSON: schemas.of(RollbackBody)},
        answers={200: json_answer("It serves.", schemas.of(Changed))},
        problems=merged(_COMMAND, _BODY, {400: ("swap_unsafe", "rollback_refused"), 500: ("swap_failed",)}),
        differing=_with_checks(schemas),
    )


def _with_checks(schemas: Schemas) -> dict[int, Schema]:
    return dict.fromkeys((400, 500), schemas.of(SwapProblem))


def _remove() -> Operation:
    return Operation(
        summary="Remove a version that is deprecated or has failed",
        tag=_MODELS,
        description=_AWAITED,
        path=(_VERSION,),
        answers={204: Answer("It is removed.")},
        problems=merged(_COMMAND, {400: ("remove_refused",), 409: ("model_in_use",)}),
    )


def _webhook() -> Operation:
    return Operation(
        summary="The model registry's notices",
        tag=_MODELS,
        description=(
            "Called by MLflow; proven by its signature, not by a credential. A notice says only where to "
            "look: the controller compares the registry with what it knows."
        ),
        body={JSON: {"type": "object", "description": "the payload of MLflow's webhook"}},
        optional_body=True,
        request=("X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"),
        answers={204: Answer("The controller was told.")},
        problems=merged(
            BODY,
            PUBLISHED,
            {
                401: ("unauthenticated",),
                404: ("webhook_without_secret",),
                409: ("webhook_replayed",),
                503: ("registry_unavailable", "schema_not_registered"),
            },
        ),
    )


def _train(schemas: Schemas) -> Operation:
    changes = schemas.add("TrainingChanges", _changes(schemas))
    return Operation(
        summary="Ask for a training",
        tag=_TRAINING,
        description=(
            "The keys of a configuration, changing the model's own. What is the operator's to say is "
            f"refused: {', '.join(f'`{name}`' for name in OPERATORS)}. Answered once the wish is on Kafka; "
            "nothing has begun then."
        ),
        body={JSON: changes},
        answers={202: json_answer("Asked for.", schemas.of(TrainingJob), "Location")},
        problems=merged(
            _BODY,
            PUBLISHED,
            {
                404: ("unknown_training",),
                422: ("invalid_training",),
                503: ("registry_unavailable", "schema_not_registered"),
            },
        ),
    )


def _changes(schemas: Schemas) -> Schema:
    """A configuration of which every key may be left out, and those of the operator are."""
    schemas.of(Configuration)
    whole = schemas.components.pop("Configuration")
    properties = {name: schema for name, schema in whole["properties"].items() if name not in OPERATORS}
    return {**record({"model": STRING, **properties}, required=("model",)), "title": "TrainingChanges"}


def _trainings(schemas: Schemas) -> Operation:
    return Operation(
        summary="How trainings stand",
        tag=_TRAINING,
        query=(limit(500),),
        answers={200: json_answer("The newest first.", schemas.of(TrainingJobs))},
        problems={400: ("invalid_option",), 503: ("training_unavailable",)},
    )


def _training(schemas: Schemas) -> Operation:
    return Operation(
        summary="How one training stands",
        tag=_TRAINING,
        path=(Parameter("id", "Its id.", SEGMENT),),
        answers={200: json_answer("The training.", schemas.of(TrainingJob))},
        problems={404: ("not_found",), 503: ("training_unavailable",)},
    )


def _acknowledge(schemas: Schemas) -> Operation:
    return Operation(
        summary="Acknowledge how a training ended",
        tag=_TRAINING,
        path=(Parameter("id", "Its id.", SEGMENT),),
        answers={202: json_answer("The training, as it stands before.", schemas.of(TrainingJob), "Location")},
        problems=merged(
            PUBLISHED,
            {
                404: ("not_found",),
                409: ("not_ended",),
                503: ("training_unavailable", "registry_unavailable", "schema_not_registered"),
            },
        ),
    )
