"""What every registry must do, stated once: inherited by the fake in memory and by the real one."""

import json
from dataclasses import replace
from uuid import uuid4

import pytest

from core.errors import DeclarationError, IncompatibleSchema, Unavailable, UnknownName
from schemas.avro import schema_text
from schemas.catalog.alerts import Alert
from schemas.evolution import diff
from schemas.record import FieldSpec
from schemas.registry import SchemaRegistry

SPEC = Alert.spec()
FIRST = schema_text(SPEC)
MORE = schema_text(
    replace(SPEC, fields=(*SPEC.fields, FieldSpec("note", "string", nullable=True, has_default=True)))
)
WITHOUT_DEFAULT = schema_text(replace(SPEC, fields=(*SPEC.fields, FieldSpec("count", "long"))))


def fresh() -> str:
    return f"test.registry.events.v1-{uuid4().hex[:12]}-value"


class RegistryBehaviour:
    """Subclasses give a `registry` fixture and a `second` one: another client of the same registry."""

    def test_a_registered_schema_is_found_by_id_and_by_text(
        self, registry: SchemaRegistry, second: SchemaRegistry
    ) -> None:
        subject = fresh()
        number = registry.register(subject, FIRST)
        assert second.id_of(subject, FIRST) == number
        assert diff(second.schema(number), FIRST) == []
        assert json.loads(second.schema(number))["name"] == "Alert"

    def test_registering_again_changes_nothing(
        self, registry: SchemaRegistry, second: SchemaRegistry
    ) -> None:
        subject = fresh()
        assert registry.register(subject, FIRST) == second.register(subject, FIRST)
        assert len(registry.versions(subject)) == 1

    def test_a_schema_that_is_not_registered_is_told_with_its_mend(self, registry: SchemaRegistry) -> None:
        with pytest.raises(Unavailable, match="millstream apply") as caught:
            registry.id_of(fresh(), FIRST)
        assert caught.value.code == "schema_not_registered"

    def test_a_deleted_subject_is_gone_and_can_be_made_again(
        self, registry: SchemaRegistry, second: SchemaRegistry
    ) -> None:
        subject = fresh()
        registry.register(subject, FIRST)
        registry.delete(subject)
        registry.delete(subject)
        assert second.versions(subject) == []
        with pytest.raises(Unavailable, match="millstream apply"):
            registry.id_of(subject, FIRST)
        registry.register(subject, MORE)
        assert len(second.versions(subject)) == 1

    def test_an_unknown_id_is_an_unknown_name(self, registry: SchemaRegistry) -> None:
        with pytest.raises(UnknownName):
            registry.schema(987_654_321)

    def test_a_new_subject_has_nothing(self, registry: SchemaRegistry) -> None:
        subject = fresh()
        assert registry.latest(subject) is None
        assert registry.versions(subject) == []
        assert registry.compatibility(subject) is None

    def test_compatible_schemas_follow_each_other(self, registry: SchemaRegistry) -> None:
        subject = fresh()
        registry.register(subject, FIRST)
        registry.set_compatibility(subject)
        registry.set_compatibility(subject)
        assert registry.compatibility(subject) == "BACKWARD_TRANSITIVE"
        assert registry.test(subject, MORE)
        registry.register(subject, MORE)
        assert [diff(text, MORE) == [] for text in registry.versions(subject)] == [False, True]
        latest = registry.latest(subject)
        assert latest is not None
        assert diff(latest, MORE) == []
        assert subject in registry.subjects()

    def test_an_incompatible_schema_is_refused_with_the_field_and_the_rule(
        self, registry: SchemaRegistry
    ) -> None:
        subject = fresh()
        registry.register(subject, FIRST)
        registry.set_compatibility(subject)
        assert not registry.test(subject, WITHOUT_DEFAULT)
        with pytest.raises(IncompatibleSchema, match="needs a default") as caught:
            registry.register(subject, WITHOUT_DEFAULT)
        assert "+ count: long" in caught.value.what
        assert len(registry.versions(subject)) == 1

    def test_what_is_no_schema_is_refused(self, registry: SchemaRegistry) -> None:
        with pytest.raises(DeclarationError):
            registry.register(fresh(), "{")

    def test_it_says_that_it_is_there(self, registry: SchemaRegistry) -> None:
        assert registry.reachable()
