"""A whole gateway to be abused: every part switched on, two tenants, an issuer of tokens, and a listener that
nobody should ever be made to call."""

import json
import socket
import threading
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx
import psycopg

from cli.audited import Act
from core.ids import new_id
from core.people_settings import People
from core.settings import Issuer, Mlflow, Settings
from gateway.forwarding.wiring import Forward
from gateway.keys import create_key, parse, revoke_key
from gateway.people.admin import Operator
from pipelines.changes import apply_topics
from pipelines.generating import TOPICS as GENERATING
from schemas.catalog.training import TOPICS as TRAINING
from tests.gateway import issuing
from tests.gateway.abuse.routes import Row
from tests.gateway.directly import direct_serving
from tests.gateway.people.site import AUTH, CHEAP, PASSWORD
from tests.gateway.running import RunningGateway

OURS, THEIRS = "ours", "theirs"
SECRET = "only-theirs-7f3a"
POSITION_SECRET = "positions of a gateway that is abused"
WEBHOOK_SECRET = "a secret of the registry"
PATIENCE_S = 60.0
LEAKS = ("Traceback", 'File "', "site-packages", "psycopg", "hiredis", "librdkafka", "msgspec.", SECRET)
"""What no answer may hold, beside the addresses of the services and the folder of their data."""


class Canary:
    """Listens on loopback and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.calls = 0
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()


class KeyServer:
    """Serves the issuer's JWKS."""

    def __init__(self) -> None:
        document = issuing.document(*issuing.KEYS)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Site(RunningGateway):
    """`ours` and `theirs` are clients of two tenants, `bare` has no credential. `assembly` is the gateway."""

    def __init__(self, settings: Settings) -> None:
        self._exits = ExitStack()
        self.canary, self.issuer = Canary(), KeyServer()
        self._exits.callback(self.canary.close)
        self._exits.callback(self.issuer.close)
        issuer = Issuer(name=issuing.NAME, jwks=self.issuer.url, audience=issuing.AUDIENCE)
        gateway = settings.gateway.model_copy(update={"position_secret": POSITION_SECRET})
        super().__init__(
            settings.model_copy(
                update={
                    "gateway": gateway,
                    "issuer": issuer,
                    "mlflow": Mlflow(webhook_secret=WEBHOOK_SECRET),
                    "people": People(**CHEAP),
                }
            ),
            llm=True,
            forward=Forward(direct=True, embeddings=True),
        )

    def __enter__(self) -> Self:
        apply_topics((*GENERATING, *TRAINING), self.settings)
        self._exits.enter_context(direct_serving(self.settings))
        super().__enter__()
        self.key_of_ours, self.key_of_theirs = self.key(OURS), self.key(THEIRS)
        self.ours = self._client({"authorization": f"Bearer {self.key_of_ours}"})
        self.theirs = self._client({"authorization": f"Bearer {self.key_of_theirs}"})
        self.bare = self._client({})
        self._user = self._client({})
        self._leaks = LEAKS + tuple(self._addresses())
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()
        super().__exit__(*error)

    def user(self, tenant: str, *roles: str) -> str:
        """The name of a new user."""
        name = f"u-{new_id()}"
        Operator(self.settings, Act()).create(tenant, name, PASSWORD, roles)
        return name

    def access(self, name: str) -> str:
        """An access token of the user's, of a new session."""
        answer = self.bare.post(f"{AUTH}/login", json={"user": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def caller(self, row: Row) -> httpx.Client:
        """Who calls a route: ours with a key, or a user of ours who has just logged in."""
        if not row.user:
            return self.ours
        self._user.headers["authorization"] = f"Bearer {self.access(self.user(OURS, 'admin'))}"
        return self._user

    def _client(self, headers: dict[str, str]) -> httpx.Client:
        transport = httpx.HTTPTransport(retries=8)
        return self._exits.enter_context(
            httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, transport=transport)
        )

    def _addresses(self) -> list[str]:
        given = self.settings
        ports = (given.kafka.port, given.registry.port, given.redis.port, given.postgres.port)
        return [f":{port}" for port in ports] + [str(given.root)]

    def revoked_key(self) -> str:
        made = self.key(OURS)
        self.revoke(made)
        return made

    def revoke(self, key: str) -> None:
        revoke_key(self.settings, public_id(key))

    def expired_key(self) -> str:
        made = create_key(self.settings, OURS, expires_in=timedelta(days=1))
        self.sql("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = %s", public_id(made))
        return made

    def sql(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.settings.postgres.address, autocommit=True) as connection:
            connection.execute(statement, values)

    def works(self) -> None:
        """The next good request is answered."""
        answer = self.ours.get("/api/v1/features/card_activity/1-2-3")
        assert answer.status_code == 200, answer.text

    def wrong(
        self,
        answer: httpx.Response,
        status: int | None = None,
        code: str | None = None,
        *,
        openai: bool = False,
    ) -> list[str]:
        """Everything that an answer should not be: of another status or code, a 5xx, no problem document,
        without its headers, telling what is not its reader's business."""
        found = []
        if answer.status_code >= 500:
            found.append(f"a {answer.status_code}")
        if status is not None and answer.status_code != status:
            found.append(f"{answer.status_code} instead of {status}")
        if "x-content-type-options" not in answer.headers or "content-security-policy" not in answer.headers:
            found.append("without the headers of every answer")
        if answer.status_code >= 400 and answer.request.method != "HEAD":
            found += _no_problem(answer, code, openai=openai)
        found += [
            f"tells {leak!r}" for leak in self._leaks if leak in answer.text or leak in str(answer.headers)
        ]
        return [f"{one}: {answer.text[:300]}" for one in found]


def _no_problem(answer: httpx.Response, code: str | None, *, openai: bool) -> list[str]:
    try:
        document = answer.json()
        if answer.request.url.path.split("/")[1] == "v2":  # a protocol that has no codes
            whole = set(document) == {"error"} and isinstance(document["error"], str)
            return [] if whole and document["error"] else ["no error of the protocol"]
        if openai:
            told = document["error"]["code"]
            whole = set(document["error"]) == {"message", "type", "param", "code"}
        else:
            told = document["code"]
            whole = (
                answer.headers["content-type"] == "application/problem+json"
                and document["status"] == answer.status_code
                and document["request_id"] == answer.headers["x-request-id"]
                and document["type"] == f"urn:millstream:problem:{told}"
                and {"title", "detail", "retryable"} <= document.keys()
            )
    except (json.JSONDecodeError, KeyError, TypeError):
        return ["no problem document"]
    wrong = [] if whole else ["a problem document that is not whole"]
    return wrong if code is None or told == code else [*wrong, f"code {told} instead of {code}"]


def public_id(key: str) -> str:
    parsed = parse(key)
    assert parsed is not None
    return parsed[0]
