"""Changing which version answers, by the routes of the gateway, as an operator does."""

import time
from typing import Any

import httpx

from models.registry import open_registry
from tests.integration.levels.measuring import expecting
from tests.integration.scenario import Deployed

MODELS = "/api/v1/models"
NAME = "fraud"
WITHIN_S = 90.0


def another(deployed: Deployed, like: str, **files: bytes) -> str:
    """A new version in the registry, with the files of one that is there but for those given."""
    registry = open_registry(deployed.settings)
    known = registry.resolve(NAME, like)
    same = {file: known.read(file) for file in known.manifest.files}
    return registry.publish(NAME, {**same, **files}, known.manifest.description).version


def model(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{MODELS}/{NAME}", **expecting(200)).json()
    return found


def active(client: httpx.Client) -> str:
    return str(model(client)["active"])


def loaded(client: httpx.Client, version: str) -> dict[str, Any]:
    """Asked for, and ready on all workers; what its route tells of it then."""
    id = f"{NAME}:{version}"
    asked = client.post(MODELS, json={"id": id}, **expecting(202))
    assert asked.status_code == 202, asked.text
    deadline = time.monotonic() + WITHIN_S
    while True:
        told: dict[str, Any] = client.get(f"{MODELS}/{id}", **expecting(200, 404)).json()
        if told.get("state") == "ready" and safe(client, version):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def safe(client: httpx.Client, version: str) -> bool:
    told = client.get(f"{MODELS}/{NAME}:{version}/swap/safety", **expecting(200)).json()
    return bool(told["safe"])


def changed(client: httpx.Client, version: str) -> dict[str, Any]:
    """Swapped to, unless it is there already; what the route told of it."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        if active(client) == version and model(client)["operation"] is None:
            return {}
        answer = client.post(f"{MODELS}/swap", json={"target": f"{NAME}:{version}"}, **expecting(200, 400))
        if answer.status_code == 200:
            told: dict[str, Any] = answer.json()
            return told
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
