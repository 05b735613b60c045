"""The short process that brings a version into the cache: `python -m models.registry.fetching`, told on its
standard input what to bring, its last line says what became of it. See `models.registry.following`."""

import sys
from pathlib import Path

import msgspec

from core.errors import MillstreamError
from models.registry.connection import Connection, Place
from models.registry.following import Brought, Wanted, told
from models.registry.registry import ModelRegistry
from models.store import ModelStore


def main() -> None:
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    place = Place(wanted.uri, None if wanted.folder is None else Path(wanted.folder))
    registry = ModelRegistry(Connection(place, timeout_s=wanted.timeout_s), ModelStore(Path(wanted.cache)))
    try:
        brought = Brought(registry.fetch(wanted.name, wanted.reference).version)
    except MillstreamError as error:
        brought = told(error)
    sys.stdout.write(f"\n{msgspec.json.encode(brought).decode()}\n")


if __name__ == "__main__":
    main()
