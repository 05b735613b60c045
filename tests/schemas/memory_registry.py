"""A schema registry in memory, behind the same HTTP client: the Confluent API over a mock transport."""

import json
from typing import Any

import httpx

from core.errors import IncompatibleSchema
from schemas.evolution import check_backward


class MemoryRegistry:
    """Subjects, versions, ids and one rule, as the Confluent API shows them. `away` makes it refuse."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.subjects: dict[str, list[str]] = {}
        self.levels: dict[str, str] = {}
        self.calls: list[str] = []
        self.away = False
        self.failing = False

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("connection refused", request=request)
        if self.failing:
            return httpx.Response(500, text="out of order")
        path = request.url.path
        self.calls.append(f"{request.method} {path}")
        body: Any = json.loads(request.content) if request.content else {}
        parts = path.strip("/").split("/")
        match [request.method, *parts]:
            case ["GET", "subjects"]:
                return httpx.Response(200, json=sorted(self.subjects))
            case ["GET", "schemas", "ids", number]:
                if 1 <= int(number) <= len(self.texts):
                    return httpx.Response(200, json={"schema": self.texts[int(number) - 1]})
                return _missing(40403, "schema")
            case ["POST", "subjects", subject]:
                if body["schema"] in self.subjects.get(subject, []):
                    return httpx.Response(200, json={"id": self.texts.index(body["schema"]) + 1})
                return _missing(40403, "schema")
            case ["POST", "subjects", subject, "versions"]:
                return self._register(subject, body["schema"])
            case ["DELETE", "subjects", subject]:
                versions = self.subjects.pop(subject, None)
                if versions is None:
                    return _missing(40401, "subject")
                return httpx.Response(200, json=list(range(1, len(versions) + 1)))
            case ["GET", "subjects", subject, "versions", *which]:
                return self._versions(subject, which)
            case ["PUT", "config", subject]:
                self.levels[subject] = body["compatibility"]
                return httpx.Response(200, json=body)
            case ["GET", "config"]:
                return httpx.Response(200, json={"compatibilityLevel": "NONE"})
            case ["GET", "config", subject]:
                if subject not in self.levels:
                    return _missing(40401, "subject")
                return httpx.Response(200, json={"compatibilityLevel": self.levels[subject]})
            case ["POST", "compatibility", "subjects", subject, "versions"]:
                return httpx.Response(200, json={"is_compatible": self._compatible(subject, body["schema"])})
        return httpx.Response(405)

    def _register(self, subject: str, text: str) -> httpx.Response:
        try:
            json.loads(text)
        except ValueError:
            return httpx.Response(422, json={"error_code": 42201, "message": "invalid schema"})
        known = self.subjects.get(subject, [])
        if text not in known:
            if not self._compatible(subject, text):
                return httpx.Response(409, json={"error_code": 409, "message": "incompatible"})
            self.subjects.setdefault(subject, []).append(text)
            if text not in self.texts:
                self.texts.append(text)
        return httpx.Response(200, json={"id": self.texts.index(text) + 1})

    def _versions(self, subject: str, which: list[str]) -> httpx.Response:
        texts = self.subjects.get(subject)
        if not texts:
            return _missing(40401, "subject")
        if not which:
            return httpx.Response(200, json=list(range(1, len(texts) + 1)))
        number = len(texts) if which[0] == "latest" else int(which[0])
        return httpx.Response(200, json={"version": number, "schema": texts[number - 1]})

    def _compatible(self, subject: str, text: str) -> bool:
        if self.levels.get(subject, "NONE") == "NONE":
            return True
        try:
            check_backward(self.subjects.get(subject, []), text)
        except IncompatibleSchema:
            return False
        return True


def _missing(code: int, what: str) -> httpx.Response:
    return httpx.Response(404, json={"error_code": code, "message": f"{what} not found"})
