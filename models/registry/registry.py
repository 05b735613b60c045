"""The model registry on MLflow: versions and aliases there, their bytes verified in a local cache.

A version is a run's artifacts (an MLflow model of the ONNX flavour, so that MLflow's own client loads it,
with our files beside it) and tags. Its last tag is the SHA-256 of its manifest: a version without that is not
yet whole, or was not registered here, and is refused. Bytes are read from the cache (`models.store`); a
version is brought into it once, verified.
"""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from core.clock import Clock, SystemClock, to_millis
from core.errors import InvalidInput, ModelRefused, Unavailable, UnknownName
from core.ids import digest
from core.telemetry.log import logger
from models import manifest as manifests
from models.manifest import Description
from models.registry import contents as files_in
from models.registry.admission import admit
from models.registry.connection import Connection, Missing, made_before
from models.registry.known import (
    PREFIX,
    SIGNED,
    Described,
    KnownModel,
    KnownVersion,
    aliases_of,
    by_number,
    is_name,
    known_version,
    tags_of,
)
from models.registry.serving_metrics import SERVING_DAYS, ServingMetrics
from models.store import (
    CHAMPION,
    MANIFEST,
    MODEL,
    PREVIOUS,
    ModelStore,
    StoredModel,
    check_files,
    checked_name,
    is_version,
    manifest_of,
    read_manifest,
)

_LOG = logger("models.registry")
EXPERIMENT = "millstream"
_PAGE, _MOST_PAGES = 1_000, 100
_PARAMETERS_AT_ONCE = 100


class ModelRegistry:
    """Models in MLflow. Many processes may read and publish at the same time; safe for several threads.

    Every call that MLflow must answer raises Unavailable when it does not, within the set time.
    """

    def __init__(
        self,
        connection: Connection,
        cache: ModelStore,
        *,
        clock: Clock | None = None,
        serving_days: int = SERVING_DAYS,
    ) -> None:
        self.cache = cache
        self._connection = connection
        self._clock = clock or SystemClock()
        self._serving = ServingMetrics(connection, self._known, days=serving_days)

    @property
    def where(self) -> str:
        return str(self._connection.place)

    @property
    def connection(self) -> Connection:
        return self._connection

    def names(self) -> list[str]:
        return sorted(self._aliases_by_name())

    def versions(self, name: str) -> list[str]:
        """The complete versions, oldest first; none when there is no such model."""
        return list(self._known(checked_name(name, "model")).complete)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version."""
        return dict(self._known(checked_name(name, "model")).aliases)

    def models(self) -> dict[str, KnownModel]:
        """Every model with every version, the refused ones too."""
        by_name: dict[str, dict[str, KnownVersion]] = {}
        aliases = self._aliases_by_name()
        for known in self._search(None):
            by_name.setdefault(known.name, {})[known.version] = known
        return {
            name: KnownModel(name, aliases[name], by_number(by_name.get(name, {})))
            for name in sorted(aliases)
        }

    def publish(self, name: str, files: Mapping[str, bytes], description: Description) -> StoredModel:
        """Write a new version, whole or refused for ever; no alias moves.

        Raises InvalidInput for files that make no version, and ModelRefused for what would not load.
        """
        checked_name(name, "model")
        check_files(name, files, description)
        admit(name, files, description, clock=self._clock)
        with self._connection.writing():
            experiment = self._prepare(name)
            with self._connection.asking(f"publish model {name}") as client:
                run = client.create_run(experiment, run_name=name, tags={f"{PREFIX}model": name})
                run_id = str(run.info.run_id)
                try:
                    stored = self._write(client, run, name, files, description)
                except BaseException:
                    client.set_terminated(run_id, "FAILED")
                    raise
                client.set_terminated(run_id, "FINISHED")
        _LOG.info("model published", model=name, version=stored.version, digest=stored.manifest.digest)
        return stored

    def resolve(self, name: str, reference: str = CHAMPION) -> StoredModel:
        """A version by its number or by an alias, from the cache, brought there where it is missing.

        A number that is cached is not asked for; an alias is, and its last known version is taken where
        MLflow is away and that version is cached. Files that turn out to be damaged in the cache are brought
        again, once. Raises UnknownName for what is not there, InvalidInput for what is no name, ModelRefused
        for a version without digest or with files that are not its own.
        """
        checked_name(name, "model")
        if is_version(reference):
            return self._kept(name, reference) or self._fetched(name, reference)
        checked_name(reference, "alias")
        try:
            known = self._known(name)
        except Unavailable as error:
            version = self.cache.pointer(name, reference)
            if version is None or not self.cache.holds(name, version):
                raise
            _LOG.warning("the alias may have moved, the cached one is taken", model=name, error=error.what)
            return self._mending(self.cache.resolve(name, reference))
        if reference not in known.aliases:
            if not known.versions:
                raise UnknownName("model", name, self.names())
            raise UnknownName("model alias", reference, known.aliases, where=f"model {name}")
        stored = self._fetched(name, known.aliases[reference], known)
        self.remember(known, reference)  # only now: until it is here, followers keep what they have
        return stored

    def fetch(self, name: str, reference: str = CHAMPION) -> StoredModel:
        """`resolve`, with every file of the cached version held against its digest, and brought again from
        MLflow where one is damaged. Raises ModelRefused where it is damaged there too."""
        if not is_version(reference):
            reference = self.resolve(name, reference).version
        return self._fetched(checked_name(name, "model"), reference, whole=True)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version that is whole. A champion that gives way becomes `previous`, which is
        written first: a crash in between leaves the champion, and the same call again mends it."""
        checked_name(alias, "alias")
        stored = self.resolve(name, version)
        with self._connection.writing():
            before = self._known(name).aliases.get(CHAMPION)
            with self._connection.asking(f"move the alias {alias!r} of model {name}") as client:
                if alias == CHAMPION and before not in (None, stored.version):
                    client.set_registered_model_alias(name, PREVIOUS, before)
                client.set_registered_model_alias(name, alias, stored.version)
            self.remember(self._known(name), alias, PREVIOUS)

    def settle_aliases(
        self, name: str, champion: str, previous: str | None, *, instead_of: Sequence[str]
    ) -> bool:
        """Point both aliases where a controller has them, `previous` first; None takes it away. Whatever is
        there already stays, so the same call again mends one that was cut short.

        False, and nothing is changed, where the champion is neither there nor at one of `instead_of`: then
        somebody else has moved it. A `previous` that the registry has not is passed over. Raises UnknownName
        for a champion that it has not.
        """
        with self._connection.writing():
            known = self._known(checked_name(name, "model"))
            now = known.aliases.get(CHAMPION)
            if now not in (None, champion, *instead_of):
                return False
            if champion not in known.complete:
                raise UnknownName("model version", champion, known.complete, where=f"model {name}")
            with self._connection.asking(f"move the aliases of model {name}") as client:
                before = known.aliases.get(PREVIOUS)
                if previous is None and before is not None:
                    client.delete_registered_model_alias(name, PREVIOUS)
                elif previous != before and previous in known.complete:
                    client.set_registered_model_alias(name, PREVIOUS, previous)
                if now != champion:
                    client.set_registered_model_alias(name, CHAMPION, champion)
            self.remember(self._known(name), CHAMPION, PREVIOUS)
        return True

    def remember(self, known: KnownModel, *aliases: str) -> None:
        """Keep these aliases in the cache, for those who follow them there; what is gone is forgotten. One on
        a version without digest stays there where it was."""
        for alias in aliases:
            version = known.aliases.get(alias, "")
            sha256 = known.versions[version].manifest_sha256 if version in known.versions else None
            if sha256 is not None:
                self.cache.point(known.name, alias, version, sha256)
        for alias in self.cache.aliases(known.name):
            if alias not in known.aliases:
                self.cache.unpoint(known.name, alias)

    def describe(self, name: str, reference: str = CHAMPION) -> Described:
        """Everything about a version. Raises what `resolve` raises."""
        stored = self.resolve(name, reference)
        model = self._known(name)
        known = model.versions.get(stored.version)
        if known is None:
            raise UnknownName("model version", stored.version, model.complete, where=f"model {name}")
        metrics: Mapping[str, float] = {}
        if known.run_id:
            with self._connection.asking(f"read the metrics of {stored.where}") as client:
                metrics = dict(client.get_run(known.run_id).data.metrics)
        metrics = {**metrics, **self._serving.newest(name, stored.version)}
        on_it = tuple(sorted(alias for alias, version in model.aliases.items() if version == stored.version))
        return Described(known, on_it, stored.manifest, metrics)

    def register_folder(self, name: str, folder: Path) -> StoredModel:
        """Publish the files of a folder, signed by its `manifest.json`: digests and description are read from
        there, name and version are not. Raises as `publish` does, and ModelRefused without a manifest."""
        from models.registry.admission import read_folder

        manifest, files = read_folder(folder)
        return self.publish(name, files, manifest.description)

    def register_version(self, name: str, version: str, beside: Path | None = None) -> StoredModel:
        """Publish again, whole, what somebody registered with MLflow's own client as that version.

        It must be of the ONNX flavour. Signature, golden rows and manifest (whose digests must be right) lie
        among its artifacts, or in the folder `beside`. Raises as `publish` does.
        """
        from models.registry.admission import read_folder, verified

        where = f"model {name} {version} in {self.where}"
        found = files_in.contents(self._connection, self._source(name, version), where=where)
        file = files_in.model_file(found)
        if beside is not None:
            manifest, files = read_folder(beside, without=MODEL)
        else:
            manifest = manifests.parse(found.read(MANIFEST, at_most=files_in.MAX_TEXT_BYTES), where=where)
            files = {
                name: found.read(name) for name in found.sizes if name in files_in.OURS - {MANIFEST, MODEL}
            }
        return self.publish(
            name, verified(manifest, {**files, MODEL: found.read(file)}, where=where), manifest.description
        )

    def log_metrics(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None:
        """Add what a version did in service, as `serving/<metric>` at that time, in one call; see
        `ServingMetrics`. At most 1,000, all finite; raises InvalidInput, and UnknownName for a version that
        is not there."""
        self._serving.log(name, version, metrics, at)

    def _prepare(self, name: str) -> str:
        """The experiment; makes it and the registered model where they are not there."""
        with self._connection.asking(f"prepare model {name}") as client:
            artifacts = self._connection.place.artifacts
            location = None if artifacts is None else str(artifacts)
            with made_before():
                client.create_experiment(EXPERIMENT, artifact_location=location)
            with made_before():
                client.create_registered_model(name)
            return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)

    def _write(
        self, client: Any, run: Any, name: str, files: Mapping[str, bytes], description: Description
    ) -> StoredModel:
        from mlflow.entities import Metric, Param

        run_id, now = str(run.info.run_id), to_millis(self._clock.now())
        client.log_batch(
            run_id, metrics=[Metric(key, float(value), now, 0) for key, value in description.metrics.items()]
        )
        parameters = [Param(key, str(value)) for key, value in description.parameters.items()]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])
        source = f"{run.info.artifact_uri}/model"
        made = client.create_model_version(
            name, source, run_id, tags=tags_of(files, description), await_creation_for=0
        )
        version = str(made.version)
        try:
            manifest = manifest_of(name, version, files, description, self._clock)
            signed = manifest.to_json()
            with tempfile.TemporaryDirectory(prefix="millstream-publish-") as folder:
                written = {**files, MANIFEST: signed}
                if MODEL in files:
                    created = manifest.created_at.isoformat()
                    written[files_in.MLMODEL] = files_in.mlmodel(run_id, created)
                for file, data in written.items():
                    Path(folder, file).write_bytes(data)
                client.log_artifacts(run_id, folder, "model")
            client.set_model_version_tag(name, version, SIGNED, digest(signed))  # from here on it is there
        except BaseException:
            client.delete_model_version(name, version)
            raise
        return self.cache.keep(signed, files)

    def _kept(self, name: str, version: str) -> StoredModel | None:
        """The version in the cache; None where it is not, or its manifest is damaged."""
        if not self.cache.holds(name, version):
            return None
        try:
            return self._mending(self.cache.resolve(name, version))
        except (ModelRefused, UnknownName) as error:  # unknown: just being replaced
            _LOG.warning("damaged in the cache", model=name, version=version, reason=error.what)
            return None

    def _mending(self, stored: StoredModel) -> StoredModel:
        """One whose files are brought again where they are damaged."""
        return stored.mended_by(lambda: self.fetch(stored.name, stored.version))

    def _fetched(
        self, name: str, version: str, model: KnownModel | None = None, *, whole: bool = False
    ) -> StoredModel:
        """The version in the cache, brought from MLflow by one process where it is not; with `whole` also
        where a file of it is damaged."""
        known = (model or self._known(name)).versions.get(version)
        if known is None:
            complete = self.versions(name)
            if not complete:
                raise UnknownName("model", name, self.names())
            raise UnknownName("model version", version, complete, where=f"model {name}")
        where = f"model {name} {version} in {self.where}"
        if known.manifest_sha256 is None:
            if known.state == "incomplete":
                raise ModelRefused("it was not written to the end", where=where, mend="publish it again")
            raise ModelRefused(
                "it is unsigned: it has no digest",
                where=where,
                mend=f"register it: `millstream models register {name} --from-version {version}`",
            )
        with self.cache.fetching(name):
            there = self.cache.intact if whole else self.cache.holds
            if not there(name, version, known.manifest_sha256):
                self._bring(known, where)
        return self._mending(self.cache.resolve(name, version))

    def _bring(self, known: KnownVersion, where: str) -> None:
        source = self._source(known.name, known.version)
        found = files_in.contents(self._connection, source, where=where)
        signed = found.read(MANIFEST, at_most=files_in.MAX_TEXT_BYTES)
        if digest(signed) != known.manifest_sha256:
            raise files_in.refused("the manifest is not the one that it was signed with", where)
        manifest = read_manifest(signed, known.name, known.version, where=where)
        strangers = set(manifest.files) - files_in.OURS
        if strangers:
            raise files_in.refused(f"the manifest names {sorted(strangers)[0]!r}", where)
        if manifest.description.kind == "tabular" and files_in.model_file(found) != MODEL:
            raise files_in.refused(f"{files_in.MLMODEL} names another model file", where)
        files = {file: found.read(file, at_most=entry.size) for file, entry in manifest.files.items()}
        if MODEL in files:
            files_in.check_onnx(files[MODEL], where=where)
        self.cache.keep(signed, files)
        _LOG.info("model cached", model=known.name, version=known.version)

    def _known(self, name: str) -> KnownModel:
        """One model; without versions where there is none of that name."""
        try:
            with self._connection.asking(f"read model {name}") as client:
                aliases = aliases_of(client.get_registered_model(name))
        except Missing:
            return KnownModel(name, {}, {})
        return KnownModel(name, aliases, by_number({known.version: known for known in self._search(name)}))

    def _aliases_by_name(self) -> dict[str, dict[str, str]]:
        found, token = {}, None
        with self._connection.asking("list the models") as client:
            for _ in range(_MOST_PAGES):
                page = client.search_registered_models(max_results=_PAGE, page_token=token)
                found.update({model.name: aliases_of(model) for model in page if is_name(model.name)})
                token = page.token
                if not token:
                    break
        return found

    def _search(self, name: str | None) -> list[KnownVersion]:
        found, token = [], None
        with self._connection.asking("list the versions") as client:
            for _ in range(_MOST_PAGES):
                page = client.search_model_versions(
                    None if name is None else f"name = '{name}'", max_results=_PAGE, page_token=token
                )
                found += [known_version(entry) for entry in page if is_name(entry.name)]
                token = page.token
                if not token:
                    break
        return found

    def _source(self, name: str, version: str) -> str:
        """Where the files of a version lie."""
        checked_name(name, "model")
        if not is_version(version):
            raise InvalidInput(f"version {version!r}", where=f"model {name}", mend="versions are numbers")
        try:
            with self._connection.asking(f"find model {name} {version}") as client:
                return str(client.get_model_version_download_uri(name, version))
        except Missing as error:
            known = self._known(name).versions
            if not known:
                raise UnknownName("model", name, self.names()) from error
            raise UnknownName("model version", version, known, where=f"model {name}") from error
