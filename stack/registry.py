"""Apicurio Registry: the schema registry with the Confluent API, its data in a file database."""

from pathlib import Path

from core.settings import LOOPBACK
from stack.artifacts import ROOTS, ArtifactCache, Coordinate
from stack.service import SMALL_JVM, Port, Progress, Service, java
from stack.unit import Probe, Unit


class Registry(Service):
    """The schema registry of the local stack.

    A schema id that was handed out is on disk before the answer (`WRITE_DELAY=0`): records name schemas by
    id, so an id lost in a crash would make them unreadable.
    """

    name = "registry"

    @property
    def external(self) -> str | None:
        return self.settings.registry.url

    @property
    def address(self) -> str:
        return self.settings.registry.address

    def version(self) -> str:
        return f"Apicurio Registry {Coordinate.parse(ROOTS['registry'][0]).version}"

    def ports(self) -> tuple[Port, ...]:
        given = self.settings.registry
        return (
            Port(given.port, "schema registry", "MILLSTREAM_REGISTRY__PORT"),
            Port(given.management_port, "schema registry management", "MILLSTREAM_REGISTRY__MANAGEMENT_PORT"),
        )

    def fetch(self, progress: Progress) -> None:
        java()
        cache = self._cache()
        cache.fetch("registry", lambda done, total: progress.transferred(self.name, done, total))
        cache.unpacked("registry")

    def prepare(self) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)

    def units(self) -> tuple[Unit, ...]:
        given = self.settings.registry
        database = f"jdbc:h2:file:{self.folder / 'schemas'};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE"
        properties = {
            "quarkus.http.host": LOOPBACK,
            "quarkus.http.port": given.port,
            "quarkus.management.host": LOOPBACK,
            "quarkus.management.port": given.management_port,
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "h2",
            "apicurio.datasource.url": database,
            "java.io.tmpdir": self.folder / "tmp",
        }
        argv: list[str | Path] = [
            java(),
            "-Xmx256m",
            "-Xms64m",
            *SMALL_JVM,
            "-XX:+ExitOnOutOfMemoryError",
        ]
        argv += [f"-D{key}={value}" for key, value in properties.items()]
        argv += ["-jar", self._jar()]
        management = f"http://{LOOPBACK}:{given.management_port}"
        unit = self._unit(argv, health=Probe("http", f"{management}/health/live"), ready=self.reach())
        return (unit,)

    def reach(self) -> Probe:
        return Probe("http", f"{self.address}/subjects?limit=1")

    def _cache(self) -> ArtifactCache:
        return ArtifactCache(self.settings.cache)

    def _jar(self) -> Path:
        found = sorted(self._cache().unpacked("registry").rglob("quarkus-run.jar"))
        return found[0] if found else self._cache().folder / "quarkus-run.jar"
