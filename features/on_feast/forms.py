"""What Feast's registry keeps of a view beside the view Feast knows: one JSON text, in a tag.

Feast has no value when empty, no time to live per feature, no tenant and no aggregates. With this text a
process that has only the registry (`feast serve`, `feast materialize`) reads and writes the online store as
the processes do that have the declaration. It is data: names, numbers and constants.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, cast

import msgspec

from core.errors import DeclarationError, InvalidInput
from core.ids import canonical_json
from core.structs import ready
from features.aggregates import Count, CountDistinct, Max, Mean, Std, Sum
from features.feature_rows import field_name
from features.online.layout import layout_of
from features.online.packed import Kind, PackedField, PackedLayout, Value
from features.plain import Plain, check_plain
from features.view import Feature, FeatureView
from features.windows import Rolling
from schemas.record import Float32, Int32, Record, record
from schemas.record import Kind as ColumnKind

FORM = "millstream.form"
"""The tag that holds the text."""
TENANT = "tenant"
"""The join key that every view has first."""

_MS = timedelta(milliseconds=1)
_AGGREGATES: dict[str, type[Plain]] = {
    aggregate.__name__: aggregate for aggregate in (Count, CountDistinct, Max, Mean, Std, Sum)
}
_COLUMNS: dict[ColumnKind, Any] = {
    "string": str, "int": Int32, "long": int, "float": Float32, "double": float, "boolean": bool,
}  # fmt: skip


class FieldForm(msgspec.Struct, frozen=True):
    """One field of a packed value."""

    name: str
    kind: Kind
    ttl_ms: int | None = None
    empty: Value = None


@ready
class PackedForm(msgspec.Struct, frozen=True, tag="packed"):
    """A windowed view: the layout of its packed value. entity: the join keys besides tenant, in the order in
    which they are joined to one key."""

    view: str
    version: int
    digest: str
    entity: tuple[str, ...]
    ttl_ms: int
    fresh_ms: int
    fields: tuple[FieldForm, ...]

    @property
    def layout(self) -> PackedLayout:
        return PackedLayout(
            view=self.view,
            version=self.version,
            fields=tuple(
                PackedField(f.name, f.kind, None if f.ttl_ms is None else f.ttl_ms * _MS, f.empty)
                for f in self.fields
            ),
            ttl=self.ttl_ms * _MS,
            digest=self.digest,
            fresh_for=self.fresh_ms * _MS,
        )


@ready
class RollingForm(msgspec.Struct, frozen=True, tag="rolling"):
    """A plain rolling view. meaning: its canonical form. columns: the kinds of the columns it reads."""

    meaning: dict[str, Any]
    digest: str
    ttl_ms: int
    columns: dict[str, ColumnKind]

    @property
    def entity(self) -> tuple[str, ...]:
        return (self.meaning["entity"],)

    @property
    def view(self) -> FeatureView:
        """The view again, over a record of just the columns that it reads.

        Raises DeclarationError if it does not mean what the one meant that was stored.
        """
        stored = self.meaning
        made = FeatureView(
            name=stored["name"],
            version=stored["version"],
            source=self._source(),
            entity=stored["entity"],
            disorder=timedelta(0),
            window=Rolling(),
            features=tuple(map(_feature, stored["features"])),
            ttl=self.ttl_ms * _MS,
        )
        if made.digest != self.digest:
            raise DeclarationError(
                f"{made.name} v{made.version} in the registry does not mean what its digest says",
                where="Feast registry",
                mend="apply the view again",
            )
        return made

    def _source(self) -> type[Record]:
        namespace, _, name = self.meaning["source"].rpartition(".")
        entity, time = self.meaning["entity"], self.meaning["time"]
        columns = {column: _COLUMNS[kind] | None for column, kind in self.columns.items()}
        types = columns | {entity: str, time: datetime}
        made = msgspec.defstruct(
            name, list(types.items()), bases=(Record,), frozen=True, kw_only=True,
            namespace={"__doc__": f"What is read of {name}.", "__module__": __name__},
        )  # fmt: skip
        return record(entity=entity, time=time, namespace=namespace)(cast(type[Record], made))


Form = PackedForm | RollingForm


def form_text(view: FeatureView) -> str:
    """The text of a view. Raises DeclarationError for a rolling view that has no online form, with the
    reasons."""
    if isinstance(view.window, Rolling):
        check_plain(view, "Feast")
        columns = {name: view.field(name).kind for name in view.columns}
        return _text(RollingForm(view.canonical(), view.digest, view.ttl // _MS, columns))
    layout = layout_of(view)
    return _text(
        PackedForm(
            view=layout.view,
            version=layout.version,
            digest=layout.digest,
            entity=tuple(field_name(name) for name in view.entity_fields),
            ttl_ms=layout.ttl_ms,
            fresh_ms=layout.ttl_ms if layout.fresh_ms is None else layout.fresh_ms,
            fields=tuple(
                FieldForm(f.name, f.kind, None if f.ttl is None else f.ttl // _MS, f.empty)
                for f in layout.fields
            ),
        )
    )


@lru_cache(maxsize=1_024)
def parse_form(text: str) -> Form:
    """The form of a text. Raises InvalidInput for one that `form_text` did not make."""
    try:
        return msgspec.json.decode(text, type=PackedForm | RollingForm)
    except (msgspec.DecodeError, ValueError) as problem:
        raise InvalidInput(
            f"the tag {FORM} is unreadable: {problem}",
            where="Feast registry",
            mend="apply the view with features.on_feast.repository.apply",
        ) from problem


def _text(form: Form) -> str:
    return canonical_json(msgspec.to_builtins(form)).decode()


def _feature(stored: dict[str, Any]) -> Feature:
    over = timedelta(seconds=stored["over_s"])
    aggregate = _AGGREGATES[stored["aggregate"]]
    column = () if aggregate is Count else (stored["column"],)
    definition = aggregate(*column, over=over)
    return Feature(stored["name"], definition, unit=stored["unit"], empty=stored["empty"])
