"""What a read asks for: features by name, and entities as callers write them.

A feature is named `view:feature`; a service stands for a list of them. An entity is an object of its fields,
`{"card_id": "1-2-3"}`, with all that the asked views need and nothing else; where they all have one and the
same field, the value alone will do: `"1-2-3"`. A column of a lookup is written `lookup_column`.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from core.errors import DeclarationError, Rejected, UnknownName
from features.feature_rows import field_name
from features.online.packed import OWN_COLUMNS
from features.services import FeatureService
from features.view import FeatureView
from schemas.keys import entity_of

Entity = str | Mapping[str, str]
Selection = tuple[tuple[FeatureView, tuple[str, ...]], ...]
"""Per view the names of its features, no view twice."""

_MOST_PROBLEMS = 100


class Readable:
    """The views and services that can be read, by name.

    Raises DeclarationError for two views or services of one name, and for a feature with a name that every
    read has.
    """

    def __init__(self, views: Iterable[FeatureView], services: Iterable[FeatureService] = ()) -> None:
        self.views: dict[str, FeatureView] = {}
        self.services: dict[str, FeatureService] = {}
        for service in services:
            if service.name in self.services:
                raise DeclarationError(f"two services {service.name!r}", mend="rename one of them")
            self.services[service.name] = service
            views = [*views, *service.views]
        for view in views:
            known = self.views.setdefault(view.name, view)
            if known.version != view.version or known.digest != view.digest:
                raise DeclarationError(
                    f"two views {view.name!r}", where=view.where, mend="read one version of a view"
                )
            for name in OWN_COLUMNS:
                if name in view.feature_names:
                    raise DeclarationError(f"a feature {name!r}", where=view.where, mend="rename it")

    def view(self, name: str) -> FeatureView:
        """Raises UnknownName with the nearest name."""
        if name not in self.views:
            raise UnknownName("view", name[:100], self.views)
        return self.views[name]

    def service(self, name: str) -> Selection:
        """Raises UnknownName with the nearest name."""
        if name not in self.services:
            raise UnknownName("service", name[:100], self.services)
        return self.services[name].features

    def features(self, references: Sequence[str]) -> Selection:
        """Of `view:feature`, in the order in which a view is first named. Raises UnknownName with the nearest
        name, Rejected (pointers into `features`) for none at all, for one that is no such pair or is there
        twice."""
        found: dict[str, list[str]] = {}
        problems: dict[str, str] = {} if references else {"/features": "name at least one"}
        for at, reference in enumerate(references):
            name, colon, feature = reference.partition(":")
            if not colon:
                problems[f"/features/{at}"] = "write it as view:feature"
                continue
            feature = self.view(name).feature(feature[:100]).name
            names = found.setdefault(name, [])
            if feature in names:
                problems[f"/features/{at}"] = "is there twice"
            names.append(feature)
        _reject("features", problems)
        return tuple((self.views[name], tuple(names)) for name, names in found.items())


def entity_fields(selection: Selection) -> tuple[str, ...]:
    """The fields that an entity must have for these views, each once."""
    return tuple(dict.fromkeys(field_name(name) for view, _ in selection for name in view.entity_fields))


def keys_of(selection: Selection, entities: Sequence[Entity]) -> list[list[str]]:
    """Per view the entities as the online store has them (`schemas.keys.entity_of`), in order.

    Raises Rejected with what is wrong, by pointers into `entities`: not a string or object, a missing or
    unknown field, a field that is no string, a string where the views have different fields.
    """
    fields = entity_fields(selection)
    problems: dict[str, str] = {}
    complete: list[Mapping[str, str]] = []
    for at, entity in enumerate(entities):
        if isinstance(entity, str) and len(fields) == 1:
            entity = {fields[0]: entity}
        found = _problems(entity, fields)
        problems |= {f"/entities/{at}{below}": reason for below, reason in found.items()}
        if not found and isinstance(entity, Mapping):
            complete.append(entity)
        if len(problems) >= _MOST_PROBLEMS:
            break
    _reject("entities", problems)
    return [
        [entity_of([entity[field_name(name)] for name in view.entity_fields]) for entity in complete]
        for view, _ in selection
    ]


def _problems(entity: object, fields: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(entity, Mapping):
        one = "a string or " if len(fields) == 1 else ""
        return {"": f"must be {one}an object with {', '.join(fields)}"}
    found = {f"/{name}": "missing" for name in fields if name not in entity}
    for name, value in entity.items():
        if name not in fields:
            near = get_close_matches(str(name)[:100], fields, n=1, cutoff=0.5)
            found[f"/{_pointer(str(name))}"] = (
                f"unknown field{f', did you mean {near[0]!r}?' if near else ''}"
            )
        elif not isinstance(value, str):
            found[f"/{name}"] = "must be a string"
        elif not _speakable(value):
            found[f"/{name}"] = "is no text that UTF-8 can hold"
    return dict(list(found.items())[:_MOST_PROBLEMS])


def _speakable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pointer(name: str) -> str:
    return name[:100].replace("~", "~0").replace("/", "~1")


def _reject(what: str, problems: Mapping[str, str]) -> None:
    if problems:
        raise Rejected(
            f"{len(problems)} of the {what} are wrong"
            if len(problems) > 1
            else f"one of the {what} is wrong",
            fields=problems,
            code="invalid_request",
        )
