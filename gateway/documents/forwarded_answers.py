"""The shapes of answers that are handed on, as types; the tests hold what comes against them."""

from typing import Any, Literal

import msgspec


class Vector(msgspec.Struct, frozen=True, kw_only=True):
    """`embedding`: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of texts, in their order, each of length 1."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class InferenceError(msgspec.Struct, frozen=True):
    """An error in the shape of the Open Inference Protocol."""

    error: str


class InferenceLive(msgspec.Struct, frozen=True):
    live: bool


class InferenceReady(msgspec.Struct, frozen=True):
    ready: bool


class InferenceServer(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """`shape` has -1 where any length is taken."""

    name: str
    datatype: str
    shape: list[int]


class InferenceModel(msgspec.Struct, frozen=True, kw_only=True):
    """`versions` are those in service. Instead of the one input every column may come as an input of its own;
    `parameters` has their names, and the fingerprint of their order."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = {}


class InferenceModelReady(msgspec.Struct, frozen=True):
    name: str
    version: str
    ready: bool


class InferenceOutput(msgspec.Struct, frozen=True, kw_only=True):
    """`data`, or the bytes behind the JSON whose number `parameters` states."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] = []
    parameters: dict[str, Any] = {}


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """`parameters` says `degraded` where the version before answered, and why."""

    model_name: str
    model_version: str
    outputs: list[InferenceOutput]
    id: str | None = None
    parameters: dict[str, Any] = {}
