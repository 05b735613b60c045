"""`models register`, `promote`: new versions, and aliases that move."""

from pathlib import Path
from typing import Annotated

import typer

from cli.audited import audited
from cli.models.output import Json, Output, Shown, show_object
from core.settings import settings


def register(group: typer.Typer) -> None:
    @group.command("register")
    def register_model(
        name: str,
        folder: Annotated[
            Path | None,
            typer.Argument(help="model.onnx, signature.json, golden.arrow, manifest.json; booster.ubj."),
        ] = None,
        from_version: Annotated[
            str | None, typer.Option(help="Take the model from this version in MLflow, logged by others.")
        ] = None,
        output: Shown = Output.TABLE,
        json: Json = False,
    ) -> None:
        """A new version from files, or from one that MLflow's own client logged; loaded before it is taken.

        With --from-version, FOLDER may hold what that version lacks beside its model.
        """
        from core.errors import InvalidInput
        from models.registry import open_registry

        if from_version is None and folder is None:
            raise InvalidInput("nothing to register", mend="give FOLDER, or --from-version, or both")
        with audited("models.register", target=name) as act:
            registry = open_registry(settings())
            if from_version is not None:
                stored = registry.register_version(name, from_version, folder)
            elif folder is not None:
                stored = registry.register_folder(name, folder)
            act.target = f"{stored.name}:{stored.version}"
        made = {"model": stored.name, "version": stored.version, "digest": stored.manifest.digest}
        show_object(made, output, json)

    @group.command()
    def promote(
        name: str,
        reference: Annotated[str, typer.Argument(help="A version, or an alias on it.")],
        to: Annotated[str, typer.Option(help="champion | challenger | staging")] = "champion",
        output: Shown = Output.TABLE,
        json: Json = False,
    ) -> None:
        """Point an alias at a version that was verified; the champion that gives way becomes `previous`."""
        from cli.models.verify import findings
        from core.errors import ModelRefused, UnknownName
        from models.registry import open_registry
        from models.store import ALIASES, PREVIOUS

        allowed = [alias for alias in ALIASES if alias != PREVIOUS]
        if to not in allowed:
            raise UnknownName("model alias", to, allowed)
        with audited("models.promote", target=f"{name}:{reference}") as act:
            act.detail["alias"] = to
            registry = open_registry(settings())
            stored = registry.resolve(name, reference)
            act.target = f"{name}:{stored.version}"
            bad = [finding for finding in findings(stored) if not finding["passed"]]
            if bad:
                raise ModelRefused(
                    "; ".join(f"{finding['check']}: {finding['detail']}" for finding in bad),
                    where=stored.where,
                    mend=f"see `millstream models verify {name} {stored.version}`",
                )
            registry.set_alias(name, to, stored.version)
            aliases = registry.aliases(name)
        show_object({"model": name, "version": stored.version, "aliases": aliases}, output, json)
