"""Sections of the settings for the processes that serve models over HTTP, and for who forwards to them."""

from typing import Literal

from pydantic import Field

from core.sections import LOOPBACK, Section


class Serving(Section):
    url: str | None = Field(
        None, description="direct serving somewhere else, http(s)://; gateways forward to it"
    )
    host: str = Field(LOOPBACK, description="address that direct model serving binds to; it asks for no key")
    port: int = Field(8010, ge=0, description="port of direct model serving")
    rows: int = Field(512, ge=1, le=10_000, description="most rows in one call of the model")
    wait_ms: float = Field(0.0, ge=0, le=500, description="longest wait for a call to fill")
    queued_rows: int = Field(4096, ge=1, description="rows that wait for the model; then 503")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="size limit of one request")
    timeout_s: float = Field(5.0, gt=0, description="longest wait for a request's scores; then 504")
    engine: Literal["auto", "onnx", "xgboost"] = Field(
        "auto", description="what scores: the faster one for the size of a batch, or always the same"
    )
    threads: int = Field(1, ge=1, description="threads of one call of the model")
    connections: int = Field(64, ge=1, description="requests that a gateway forwards at once; then 503")

    @property
    def address(self) -> str:
        return (self.url or f"http://{LOOPBACK}:{self.port}").rstrip("/")


class Embeddings(Section):
    """Texts to vectors."""

    url: str | None = Field(
        None, description="external server of embeddings with the OpenAI-compatible API, http(s)://"
    )
    api_key: str | None = Field(None, description="sent to an external server as a bearer token")
    model: str = Field("all-minilm-l6-v2", description="name of the model")
    port: int = Field(8020, ge=0, description="port of the local server")
    threads: int = Field(1, ge=1, description="threads of one call of the model")
    inputs: int = Field(256, ge=1, le=2048, description="most texts in one request")
    input_tokens: int = Field(256, ge=8, le=512, description="most tokens of one text; then 400")
    request_tokens: int = Field(8_192, ge=8, description="most tokens of all texts of a request; then 400")
    queued_tokens: int = Field(32_768, ge=8, description="tokens that wait for the model; then 503")
    max_body_bytes: int = Field(256 * 1024, ge=1024, description="size limit of one request")
    timeout_s: float = Field(30.0, gt=0, description="how long vectors are waited for; then 504")
    connections: int = Field(16, ge=1, description="requests that a gateway forwards at once; then 503")

    @property
    def address(self) -> str:
        return (self.url or f"http://{LOOPBACK}:{self.port}").rstrip("/")
