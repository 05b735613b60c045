"""Our few Java classes: the source of events, the tolerant Avro format, tables of reference topics, RocksDB's
options and the one-shot submitter, compiled at set-up.

The Eclipse compiler (one jar) runs on the same Java as the services, so no JDK is needed. The jar in the
cache is named by the digest of the sources and of what they were compiled with; it is made once.
"""

import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from core.errors import StackError
from core.ids import canonical_json, digest

SOURCES = Path(__file__).with_name("java")
FACTORIES = (
    "millstream.flink.EventsTableFactory",
    "millstream.flink.ReferenceTableFactory",
    "millstream.flink.TolerantAvroFormatFactory",
)
SUBMIT = "millstream.flink.Submit"
STATE_OPTIONS = "millstream.flink.StateOptions"
_SERVICES = "META-INF/services/org.apache.flink.table.factories.Factory"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TIMEOUT_S = 120


@dataclass(frozen=True)
class JavaParts:
    """What it takes to run Java against Flink.

    java: the `java` program. compiler: the jar of the Eclipse compiler. connectors: the connector jars.
    """

    java: Path
    compiler: Path
    connectors: tuple[Path, ...]

    @property
    def flink(self) -> tuple[Path, ...]:
        """The jars of the Flink distribution inside its wheel. Raises StackError when not installed."""
        return tuple(sorted((flink_home() / "lib").glob("*.jar")))

    @property
    def class_path(self) -> tuple[Path, ...]:
        return (*self.flink, *self.connectors)

    def jar(self, cache: Path) -> Path:
        """Our jar, compiled where it is not in `cache` yet. Raises StackError with the compiler's words."""
        sources = sorted(SOURCES.rglob("*.java"))
        made_of = {
            "sources": {str(path.relative_to(SOURCES)): path.read_text() for path in sources},
            "with": [path.name for path in (self.compiler, *self.class_path)],
        }
        folder = cache / "java"
        target = folder / f"millstream-flink-{digest(canonical_json(made_of))[:16]}.jar"
        if target.exists():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not target.exists():
                self._compile(sources, target)
        return target

    def _compile(self, sources: Sequence[Path], target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as staging:
            classes = Path(staging) / "classes"
            command = [
                str(self.java), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
                "-jar", str(self.compiler), "-source", "17", "-target", "17", "-proc:none", "-nowarn",
                "-classpath", ":".join(str(path) for path in self.class_path),
                "-d", str(classes), *(str(path) for path in sources),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
            if done.returncode != 0:
                raise StackError(
                    "the Java parts do not compile",
                    where=f"{SOURCES}: {(done.stdout + done.stderr).strip()[-2000:]}",
                    mend="use the pinned Flink and connector versions",
                )
            made = Path(staging) / target.name
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as jar:
                for path in sorted(classes.rglob("*.class")):
                    entry = zipfile.ZipInfo(str(path.relative_to(classes)), _EPOCH)
                    jar.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
                jar.writestr(zipfile.ZipInfo(_SERVICES, _EPOCH), "".join(f"{name}\n" for name in FACTORIES))
            made.replace(target)


def flink_home() -> Path:
    """The distribution inside the apache-flink wheel. Raises StackError when it is not installed."""
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise StackError("Flink is not installed", where="package apache-flink", mend="run `./millstream`")
    return Path(spec.origin).parent
