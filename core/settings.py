"""Settings: environment (`MILLSTREAM_`, nested by `__`), then `millstream.toml`, then defaults.

An address given for a service (`MILLSTREAM_KAFKA__BOOTSTRAP=...`) means that the service is external:
the local stack does not start it and everything else uses the address. Without one, the local service
on `127.0.0.1:<port>` is used.
"""

import tomllib
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_cache_path
from pydantic import BaseModel, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from core.audit_settings import Audit
from core.people_settings import People
from core.sections import LOOPBACK as LOOPBACK
from core.sections import Allowance as Allowance
from core.sections import Section as Section
from core.serving_settings import Embeddings as Embeddings
from core.serving_settings import Serving as Serving

CONFIG_FILE = "millstream.toml"


class Kafka(Section):
    bootstrap: str | None = Field(None, description="external brokers, host:port[,host:port]")
    port: int = Field(9092, description="port of the local broker")
    controller_port: int = Field(9093, description="KRaft controller port of the local broker")
    replication: int = Field(1, ge=1, description="replicas per topic; 3 where there are three brokers")
    min_insync: int = Field(1, ge=1, description="in-sync replicas that an acknowledgement waits for")
    heap: str = Field("512m", description="heap of the local broker's JVM")
    security: dict[str, str] = Field({}, description="further librdkafka client settings (TLS, SASL)")

    @property
    def address(self) -> str:
        return self.bootstrap or f"{LOOPBACK}:{self.port}"


class Registry(Section):
    url: str | None = Field(None, description="external schema registry with the Confluent API")
    port: int = Field(8081, description="port of the local registry")
    management_port: int = Field(8991, description="management port of the local registry")
    auto_register: bool = Field(False, description="let producers register schemas; development only")

    @property
    def address(self) -> str:
        return self.url or f"http://{LOOPBACK}:{self.port}/apis/ccompat/v7"


class Flink(Section):
    url: str | None = Field(None, description="external JobManager REST address")
    port: int = Field(8082, description="REST port of the local JobManager")
    rpc_port: int = Field(6123, description="RPC port of the local JobManager")
    slots: int = Field(8, ge=1, description="task slots of the local TaskManager")
    parallelism: int = Field(1, ge=1, description="default parallelism of a pipeline's job")
    checkpoint_interval_s: float = Field(30.0, gt=0)
    jobmanager_memory_mb: int = Field(700, ge=512)
    taskmanager_memory_mb: int = Field(900, ge=768)
    second_compiler: bool = Field(
        False,
        description="let the local TaskManager compile hot code again: dearer for minutes, then cheaper",
    )
    checkpoints: str | None = Field(None, description="checkpoint folder URI; default inside home")

    @property
    def address(self) -> str:
        return self.url or f"http://{LOOPBACK}:{self.port}"


class Redis(Section):
    url: str | None = Field(None, description="external Redis or Valkey URL")
    port: int = Field(6379, description="port of the local Redis")

    @property
    def address(self) -> str:
        return self.url or f"redis://{LOOPBACK}:{self.port}/0"


class Postgres(Section):
    url: str | None = Field(None, description="external PostgreSQL URL")
    port: int = Field(5432, description="port of the local PostgreSQL")

    @property
    def address(self) -> str:
        return self.url or f"postgresql://millstream@{LOOPBACK}:{self.port}/millstream"


class Gateway(Section):
    host: str = Field(LOOPBACK, description="address the gateway binds to")
    port: int = Field(8000, description="port of the gateway")
    max_event_bytes: int = Field(64 * 1024, ge=256, description="size limit of one event")
    max_batch_events: int = Field(1000, ge=1, description="most events in one request")
    events_per_s: float = Field(
        20_000.0,
        gt=0,
        le=1e9,
        description="events a second that a tenant may publish to a pipeline; then 429",
    )
    events_burst: int = Field(
        40_000, ge=1, description="events at once after a rest; more in a request is 413"
    )
    max_age_s: float = Field(7 * 86400.0, gt=0, description="oldest event time accepted")
    max_ahead_s: float = Field(300.0, ge=0, description="furthest event time in the future accepted")
    publish_timeout_s: float = Field(5.0, gt=0, description="longest wait for Kafka's acknowledgement")
    max_in_flight: int = Field(10_000, ge=1, description="events awaiting acknowledgement; then 503")
    acceptance_ttl_s: int = Field(86_400, ge=60, description="how long an accepted id is remembered")
    push_ring: int = Field(50_000, ge=100, description="recent frames kept in memory for resume")
    position_secret: str | None = Field(
        None, min_length=32, description="signs push positions; the same on every gateway of one address"
    )
    push_queue: int = Field(10_000, ge=10, description="frames queued per connection; then as it subscribed")
    origins: tuple[str, ...] = Field(
        (), description="origins of pages that may call and open sockets, beside the gateway's own"
    )
    certificate: Path | None = Field(
        None, description="PEM file of a certificate and its chain, for https and wss; with `private_key`"
    )
    private_key: Path | None = Field(None, description="PEM file of its key, without a password")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("a certificate and its private key go together")
        return self

    @property
    def address(self) -> str:
        return f"{'http' if self.certificate is None else 'https'}://{self.host}:{self.port}"


_REQUESTS = Allowance(per_s=20_000.0, burst=40_000)


class Limits(Section):
    """What may be asked for; above it 429. Counted by all gateways together."""

    address: Allowance = Field(_REQUESTS, description="requests from one client address")
    tenant: Allowance = Field(_REQUESTS, description="requests of one tenant")
    key: Allowance = Field(_REQUESTS, description="requests with one key")
    route: Allowance = Field(_REQUESTS, description="requests of one tenant on one route")
    routes: dict[str, Allowance] = Field(
        {}, description="routes with another allowance, by method and template: `POST /api/v1/generate`"
    )
    tokens: Allowance = Field(
        Allowance(per_s=100_000.0, burst=2_000_000),
        description="tokens that a tenant may ask language models for",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (ip_network("127.0.0.0/8"), ip_network("::1/128")),
        description="networks whose X-Forwarded-For is believed",
    )
    requests: int = Field(
        4_096, ge=1, description="most requests that are handled at once, and that wait; then 503"
    )
    late_ms: float = Field(
        50.0, gt=0, description="where the event loop is so late, fewer requests are handled at once"
    )
    head_read_s: float = Field(10.0, gt=0, description="time to send the head of a request, or another one")
    body_read_s: float = Field(30.0, gt=0, description="time to send the body of a request; then 408")
    answer_take_s: float = Field(30.0, gt=0, description="time to take the next part of a streamed answer")
    connections: int = Field(16_384, ge=1, description="connections at once; more wait to be accepted")


class Issuer(Section):
    """Bearer tokens (JWT) that somebody else issues; without `name` there are none."""

    name: str | None = Field(None, description="`iss` of its tokens")
    jwks: str | None = Field(None, description="where its public keys are, https")
    audience: str | None = Field(None, description="`aud` that its tokens must have")
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...
    ] = Field(("RS256", "ES256", "EdDSA"), min_length=1, description="signatures that are accepted")
    tenant_claim: str = Field("tenant", description="the claim that names the tenant")
    scope_claim: str = Field("scope", description="the claim with the scopes: a list, or words in a text")
    skew_s: float = Field(30.0, ge=0, le=300, description="how far its clock may differ from ours")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = (self.name, self.jwks, self.audience)
        if any(given) and not all(given):
            raise ValueError("an issuer has a name, jwks and an audience")
        address = urlsplit(self.jwks or "https://none")
        local = address.hostname in (LOOPBACK, "localhost", "::1")
        if address.scheme != "https" and not (address.scheme == "http" and local):
            raise ValueError("keys are fetched by https, by http from this machine only")
        return self


class Balancer(Section):
    """Several local gateways behind one address, that of the gateway; on a cluster `deploy/balancer`."""

    gateways: int = Field(
        1, ge=1, le=8, description="local gateways; from two on a balancer stands before them"
    )
    first_port: int = Field(
        8001, description="port of the first gateway behind the balancer; the next has the next"
    )
    admin_port: int = Field(8099, description="port of the balancer's own readiness and statistics")
    grace_s: float = Field(
        5.0, gt=0, description="added to a gateway's own longest wait before it is given up for another"
    )

    @property
    def ports(self) -> tuple[int, ...]:
        """Those of the gateways behind the balancer; none where there is one gateway, which has its own."""
        return tuple(range(self.first_port, self.first_port + self.gateways)) if self.gateways > 1 else ()


class Asking(Section):
    """Asking a pipeline and waiting for its answer."""

    wait_s: float = Field(5.0, gt=0, description="how long an asker waits who does not say; then 504")
    longest_wait_s: float = Field(60.0, gt=0, description="the longest wait that can be asked for")
    background_s: float = Field(300.0, gt=0, description="time to answer where the asker comes back for it")
    max_waiting: int = Field(1_000, ge=1, description="requests that await their answer; then 503")
    max_body_bytes: int = Field(256 * 1024, ge=256, description="size limit of a request's body")
    reply_partition: int | None = Field(
        None, ge=0, description="the partition of replies that a gateway reads; any one by default"
    )
    outcome_ttl_s: int = Field(900, ge=60, description="how long an outcome is kept, and its id known")
    in_flight: int = Field(1_024, ge=1, description="requests that a worker answers at once")
    frame_ms: float = Field(30.0, ge=20, le=50, description="pieces of an answer gather so long for a frame")
    cache_bytes: int = Field(
        64 * 1024 * 1024,
        ge=64 * 1024,
        description="memory of a gateway for answers of one pipeline that are given again",
    )


class Worker(Section):
    batch: int = Field(512, ge=1, le=10_000, description="most records in one batch")
    wait_ms: float = Field(5.0, ge=0, le=500, description="longest wait for a batch to fill")
    commit_interval_s: float = Field(1.0, gt=0, description="longest time between two commits")
    port: int = Field(0, ge=0, description="health port; 0 lets the supervisor choose")


class Writer(Section):
    batch: int = Field(500, ge=1, le=10_000)
    wait_ms: float = Field(5.0, ge=0, le=500)
    delta_interval_s: float = Field(10.0, gt=0, description="time between two Delta commits")


class Corrections(Section):
    period_s: float = Field(300.0, gt=0, description="time between two corrections for late events")
    limit_s: float = Field(1_800.0, gt=0, description="longest correction; then it is ended, and tried again")


class Llm(Section):
    url: str | None = Field(
        None,
        description="external servers with the OpenAI-compatible API, [MODEL=]http://host:port[,...]; "
        "the first serves, the others take over",
    )
    model: str = Field("smollm2-135m-instruct", description="name of the model where none is given")
    port: int = Field(8088, description="port of the first local server; the next has the next")
    servers: int = Field(1, ge=1, le=4, description="local servers")
    threads: int = Field(1, ge=1, description="threads of a local server; they wait for each other")
    slots: int = Field(4, ge=1, le=1024, description="answers under way at once on each server")
    context: int = Field(2048, ge=256, description="tokens of prompt and answer together")
    api_key: str | None = Field(None, description="sent to external servers as a bearer token")
    connections: int = Field(16, ge=1, description="most connections to each server")
    idle_s: float = Field(3.0, gt=0, description="an idle connection is closed after; servers do after 5")
    connection_wait_s: float = Field(2.0, gt=0, description="longest wait for a connection")
    silence_s: float = Field(15.0, gt=0, description="a server that says nothing for so long is given up")
    queue: int = Field(32, ge=1, description="questions waiting for a slot; then 503")
    max_prompt_bytes: int = Field(32_768, ge=1, description="size limit of a prompt")
    max_tokens: int = Field(1024, ge=1, description="most tokens that may be asked for")
    wait_s: float = Field(60.0, gt=0, description="how long an answer is waited for; then 504")
    tokens_per_s: float = Field(9.0, gt=0, description="floor for a health score of 1")
    health_interval_s: float = Field(5.0, gt=0, description="a server that answered nobody is asked so often")
    cache_ttl_s: float = Field(300.0, ge=0, description="how long a repeatable answer is kept; 0 keeps none")
    shared: bool = Field(
        True, description="kept answers and what is known of failing servers are shared over Redis"
    )
    live_s: float = Field(60.0, gt=0, description="time of the active model; then others are asked")
    backup_s: float = Field(60.0, gt=0, description="time of the other models together")
    earlier_ttl_s: float = Field(
        86_400.0, gt=0, description="how long an answer may stand in where no model answers that question"
    )
    static_answer: str | None = Field(None, description="what is answered where nothing else is")
    paid: bool = Field(False, description="each call costs money: none is made twice, by a ledger")

    @property
    def addresses(self) -> tuple[tuple[str, str], ...]:
        """(model, URL) of every server, the one that serves first."""
        if self.url is None:
            return tuple((self.model, f"http://{LOOPBACK}:{self.port + n}") for n in range(self.servers))
        found = []
        for part in self.url.split(","):
            name, equals, url = part.strip().partition("=")
            named = bool(equals) and "://" not in name
            found.append((name if named else self.model, (url if named else part.strip()).rstrip("/")))
        return tuple(found)


class Mlflow(Section):
    uri: str | None = Field(None, description="external MLflow server, http(s)://; default: a local store")
    poll_s: float = Field(10.0, ge=0.1, le=3600, description="time between two looks for changed models")
    timeout_s: int = Field(10, ge=1, le=120, description="longest wait for an answer of the server")
    webhook_secret: str | None = Field(
        None, min_length=16, description="signs the registry's webhooks; none are taken without it"
    )
    serving_days: int = Field(7, ge=1, le=3650, description="days for which metrics of serving are kept")


class Rollout(Section):
    """The controller of model routing, and what workers tell it."""

    poll_s: float = Field(1.0, gt=0, description="time between two looks at the registry's champions")
    health_retries: int = Field(3, ge=1, description="health checks of a version before it has failed")
    min_health: float = Field(0.8, ge=0, le=1, description="least health score that may serve")
    max_error_rate: float = Field(0.05, ge=0, le=1, description="share of failed records that fails over")
    min_records: int = Field(100, ge=1, description="records in a minute before their errors count")
    kept_versions: int = Field(2, ge=0, description="deprecated versions that stay loaded")
    standby_versions: int = Field(
        4, ge=1, description="loaded versions that do not serve yet; of more the oldest goes"
    )
    patience_s: float = Field(60.0, gt=0, description="longest wait for a health check of all workers")
    first_batches: int = Field(3, ge=0, description="batches in which a new version is held against the old")
    tell_s: float = Field(2.0, gt=0, le=3, description="time between two states told by a worker")
    answer_s: float = Field(30.0, gt=0, description="longest wait of a client for a swap")


class Supervisor(Section):
    health_interval_s: float = Field(10.0, gt=0)
    health_failures: int = Field(3, ge=1, description="failures in a row that restart a process")
    health_delay_s: float = Field(30.0, ge=0, description="after a start, health counts from here")
    ready_interval_s: float = Field(5.0, gt=0)
    ready_failures: int = Field(2, ge=1, description="failures in a row that take a process out")
    ready_delay_s: float = Field(10.0, ge=0, description="after a start, readiness counts from here")
    probe_timeout_s: float = Field(2.0, gt=0)
    backoff_first_s: float = Field(1.0, gt=0)
    backoff_longest_s: float = Field(30.0, gt=0)
    alert_restarts: int = Field(3, ge=1, description="more restarts than this in the window alert")
    alert_window_s: float = Field(300.0, gt=0)
    stop_timeout_s: float = Field(20.0, gt=0, description="from SIGTERM to SIGKILL")


class Alerting(Section):
    """Alerts of error rates, by what workers and answering processes count."""

    thresholds: Path | None = Field(
        None, description="TOML file of thresholds of error rates, in place of the shipped ones"
    )
    period_s: float = Field(5.0, gt=0, le=30, description="time between two looks at the error rates")


class Training(Section):
    runs: int = Field(1, ge=1, le=64, description="trainings that run at the same time; others wait")
    processes: int = Field(0, ge=0, le=1024, description="processors of one training; 0 for all there are")
    webhook_secret: str | None = Field(
        None, min_length=16, description="signs notices of training; without it no webhook is called"
    )
    configurations: Path | None = Field(
        None, description="folder of TOML files; each takes the place of the shipped one of its model"
    )
    webhook_timeout_s: float = Field(5.0, gt=0, description="longest wait for an answer to a notice")
    kept_runs: int = Field(20, ge=1, description="newest runs of a model whose folders are kept")
    kept_days: float = Field(90.0, ge=0, description="all folders of runs younger than so many days are kept")


class Settings(BaseSettings):
    """All settings. `home` holds every bit of local data and is the one folder to delete."""

    model_config = SettingsConfigDict(
        env_prefix="MILLSTREAM_",
        env_nested_delimiter="__",
        toml_file=CONFIG_FILE,
        extra="ignore",
        frozen=True,
    )

    environment: str = Field("development", description="development | production")
    home: Path = Field(Path(".millstream"), description="folder of local data, logs and models")
    cache: Path = Field(user_cache_path("millstream"), description="folder of downloads")
    log_format: str = Field("auto", description="auto | console | json")
    log_level: str = Field("info")
    kafka: Kafka = Kafka()
    registry: Registry = Registry()
    flink: Flink = Flink()
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    gateway: Gateway = Gateway()
    limits: Limits = Limits()
    issuer: Issuer = Issuer()
    people: People = People()
    balancer: Balancer = Balancer()
    asking: Asking = Asking()
    worker: Worker = Worker()
    writer: Writer = Writer()
    corrections: Corrections = Corrections()
    serving: Serving = Serving()
    llm: Llm = Llm()
    embeddings: Embeddings = Embeddings()
    mlflow: Mlflow = Mlflow()
    rollout: Rollout = Rollout()
    alerting: Alerting = Alerting()
    supervisor: Supervisor = Supervisor()
    training: Training = Training()
    audit: Audit = Audit()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def gateway_tls(self) -> tuple[Path, Path] | None:
        """Certificate and key that a gateway serves with by itself; behind the local balancer that has them,
        and the gateways speak in the clear on loopback."""
        own = self.gateway
        if own.certificate is None or own.private_key is None or own.port in self.balancer.ports:
            return None
        return own.certificate, own.private_key

    @property
    def root(self) -> Path:
        """`home` as an absolute path."""
        return self.home.expanduser().absolute()


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def with_origins(loaded: Settings) -> list[tuple[str, Any, str]]:
    """Every setting as (dotted name, value, origin): `environment`, `millstream.toml` or `default`."""
    import os

    file = Path(CONFIG_FILE)
    in_file = tomllib.loads(file.read_text()) if file.exists() else {}
    env = {name.upper() for name in os.environ}
    rows: list[tuple[str, Any, str]] = []

    def visit(model: BaseModel, path: tuple[str, ...], given: Any) -> None:
        for name in type(model).model_fields:
            value = getattr(model, name)
            below = (*path, name)
            in_below = given.get(name) if isinstance(given, dict) else None
            if isinstance(value, Section):
                visit(value, below, in_below)
                continue
            variable = "MILLSTREAM_" + "__".join(below).upper()
            origin = "default"
            if variable in env:
                origin = f"environment {variable}"
            elif in_below is not None:
                origin = CONFIG_FILE
            rows.append((".".join(below), value, origin))

    visit(loaded, (), in_file)
    return rows
