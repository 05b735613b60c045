"""What MLflow knows of models and versions, as data; and what our tags on a version say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from core.clock import from_millis
from core.errors import InvalidInput
from core.ids import canonical_json, digest
from models.manifest import Description, Manifest
from models.store import MODEL, checked_name

PREFIX = "millstream."
SIGNED = f"{PREFIX}manifest_sha256"

State = Literal["complete", "incomplete", "unsigned"]


@dataclass(frozen=True)
class KnownVersion:
    """A version as MLflow has it. `unsigned`: registered by somebody else, never served."""

    name: str
    version: str
    state: State
    manifest_sha256: str | None
    created_at: datetime
    source: str
    run_id: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class KnownModel:
    """A model as MLflow has it: aliases to versions; versions by number, oldest first."""

    name: str
    aliases: Mapping[str, str]
    versions: Mapping[str, KnownVersion]

    @property
    def complete(self) -> tuple[str, ...]:
        return tuple(number for number, known in self.versions.items() if known.state == "complete")


@dataclass(frozen=True)
class Described:
    """A version with everything that is known of it; `metrics`: the last value of each."""

    known: KnownVersion
    aliases: tuple[str, ...]
    manifest: Manifest
    metrics: Mapping[str, float]


def tags_of(files: Mapping[str, bytes], description: Description) -> dict[str, str]:
    """What a reader of MLflow's pages should see. The digest marks a version as ours before it is whole."""
    identity = digest(canonical_json({file: digest(data) for file, data in files.items()}))
    tags = {
        "kind": description.kind,
        "digest": identity,
        "data": description.data.name,
        "data_licence": description.data.licence,
        "views": _json(description.views),
        "view_digests": _json(description.view_digests),
        "trained_on": _json(description.trained_on),
        "tested_on": _json(description.tested_on),
    }
    if MODEL in files:
        tags["model_sha256"] = digest(files[MODEL])
    if description.weights is not None:
        tags |= {"weights": _json(description.weights), "weights_licence": description.weights.licence}
    return {f"{PREFIX}{key}": value for key, value in tags.items()}


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def known_version(entry: Any) -> KnownVersion:
    """From MLflow's record of it."""
    tags = {str(key): str(value) for key, value in dict(entry.tags).items()}
    signed = tags.get(SIGNED)
    state: State = "complete" if signed else "incomplete" if f"{PREFIX}digest" in tags else "unsigned"
    return KnownVersion(
        name=str(entry.name),
        version=str(entry.version),
        state=state,
        manifest_sha256=signed,
        created_at=from_millis(int(entry.creation_timestamp)),
        source=str(entry.source),
        run_id=entry.run_id or None,
        tags=tags,
    )


def aliases_of(model: Any) -> dict[str, str]:
    """Only names that can be aliases here."""
    return {alias: str(version) for alias, version in dict(model.aliases).items() if is_name(alias)}


def is_name(name: str) -> bool:
    """Whether a model or an alias of that name can be one here; others in MLflow are passed over."""
    try:
        checked_name(name, "model")
    except InvalidInput:
        return False
    return True


def by_number(versions: Mapping[str, KnownVersion]) -> dict[str, KnownVersion]:
    return dict(sorted(versions.items(), key=lambda item: int(item[0])))
