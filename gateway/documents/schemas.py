"""JSON Schemas (2020-12) of the types that the gateway reads and writes, gathered as components.

    schemas = Schemas()
    schemas.of(Accepted)            # {"$ref": "#/components/schemas/Accepted"}
    schemas.components              # {"Accepted": {...}, ...}

A schema is made by msgspec of the type that decodes or encodes, so it cannot say something else than they do.
"""

from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

import msgspec

from core.errors import DeclarationError
from gateway.intake import ID_SHAPE, MAX_ENTITY, Intake

Schema = Mapping[str, Any]
_AT = "#/components/schemas/"
_TEMPLATE = _AT + "{name}"
MOST_ID = 128


class Schemas:
    """The components of one document, by name. Raises DeclarationError for two of one name."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """A reference to the schema of a type, or the schema itself where it has no name."""
        (found,), below = msgspec.json.schema_components([kind], ref_template=_TEMPLATE)
        for name, schema in below.items():
            self.add(name, tidy(schema))
        made: Schema = tidy(found)
        return made

    def add(self, name: str, schema: Schema) -> Schema:
        """A reference to a component of this name and content."""
        there = self.components.setdefault(name, schema)
        if there != schema:
            raise DeclarationError(
                f"two schemas are called {name!r}",
                where="documents of the API",
                mend="rename one of the types",
            )
        return {"$ref": _AT + name}

    def submitted(self, intake: Intake) -> Schema:
        """A record as clients send it: as the decoder at the door has it, with the rules of `Intake` about
        the id and the entity. The tenant is the credential's, so it is left out."""
        _, below = msgspec.json.schema_components([intake.submission], ref_template=_TEMPLATE)
        own = intake.record.__name__
        record = tidy(below.pop(own))
        for name, schema in below.items():
            self.add(name, tidy(schema))
        fields = {name: schema for name, schema in record["properties"].items() if name != "tenant"}
        fields["id"] = {
            "type": "string",
            "pattern": f"^{ID_SHAPE.pattern}$",
            "maxLength": MOST_ID,
            "description": "names the event; made here where it is left out",
        }
        entity = intake.record.spec().entity or ""
        if fields[entity].get("type") == "string":
            fields[entity] = {"minLength": 1, "maxLength": MAX_ENTITY} | fields[entity]
        return self.add(f"Submitted{own}", {**record, "title": own, "properties": fields})


def tidy(schema: Any) -> Any:
    """A schema with docstrings as plain text, and with nothing said twice."""
    if isinstance(schema, Mapping):
        made = {name: tidy(value) for name, value in schema.items()}
        text = made.get("description")
        if isinstance(text, str):
            made["description"] = cleandoc(text)
        return made
    if isinstance(schema, list):
        return [tidy(value) for value in schema]
    return schema


def array(items: Schema, *, least: int = 0, most: int | None = None) -> Schema:
    bounds = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": items, "minItems": least, **bounds}


def record(properties: Mapping[str, Schema], *, required: tuple[str, ...] | None = None) -> Schema:
    """An object of exactly these properties; all are there unless `required` says which are."""
    needed = list(properties if required is None else required)
    made: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return made | ({"required": needed} if needed else {})


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


STRING: Schema = {"type": "string"}
TIME: Schema = {"type": "string", "format": "date-time"}
