"""`models list`, `describe`: what the registry has."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.models.output import Json, Output, Shown, show_object, show_rows
from core.settings import settings

if TYPE_CHECKING:
    from models.registry import Described, KnownModel


def register(group: typer.Typer) -> None:
    @group.command("list")
    def list_models(
        name: Annotated[str | None, typer.Argument(help="One model; all without.")] = None,
        output: Shown = Output.TABLE,
        json: Json = False,
    ) -> None:
        """Every version of every model, the refused ones too, with the aliases on it."""
        from core.errors import UnknownName
        from models.registry import open_registry

        models = open_registry(settings()).models()
        if name is not None and name not in models:
            raise UnknownName("model", name, models)
        chosen = models.values() if name is None else [models[name]]
        show_rows([row for model in chosen for row in _rows(model)], output, json)

    @group.command()
    def describe(
        name: str,
        reference: Annotated[str, typer.Argument(help="A version or an alias.")] = "champion",
        output: Shown = Output.TABLE,
        json: Json = False,
    ) -> None:
        """Where a version comes from, what it learned from, how good it was and is."""
        from models.registry import open_registry

        show_object(_described(open_registry(settings()).describe(name, reference)), output, json)


def _rows(model: "KnownModel") -> list[dict[str, Any]]:
    return [
        {
            "model": model.name,
            "version": known.version,
            "state": known.state,
            "aliases": ", ".join(sorted(a for a, v in model.aliases.items() if v == known.version)),
            "created_at": known.created_at.isoformat(timespec="seconds"),
            "data": known.tags.get("millstream.data", ""),
            "digest": known.tags.get("millstream.digest", "")[:12],
        }
        for known in reversed(list(model.versions.values()))
    ]


def _described(found: "Described") -> dict[str, Any]:
    import msgspec

    manifest = found.manifest
    description = msgspec.to_builtins(manifest.description)
    return {
        "model": manifest.name,
        "version": manifest.version,
        "aliases": list(found.aliases),
        "created_at": manifest.created_at.isoformat(),
        "digest": manifest.digest,
        "files": {name: f"{entry.sha256} {entry.size}" for name, entry in manifest.files.items()},
        **{key: value for key, value in description.items() if value not in (None, {}, [])},
        "serving": {
            key.removeprefix("serving/"): value
            for key, value in sorted(found.metrics.items())
            if key.startswith("serving/")
        },
        "run": found.known.run_id,
    }
