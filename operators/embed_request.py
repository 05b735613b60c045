"""What is asked of a model of embeddings, in OpenAI's shape.

    {"input": "one text" | ["several", "texts"], "model": "...", "encoding_format": "float" | "base64"}

https://platform.openai.com/docs/api-reference/embeddings. Tokens in place of texts and vectors of another
width than the model's are refused, and said so.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from core.errors import Malformed, Rejected

FORMATS = ("float", "base64")
FIELDS = ("input", "model", "encoding_format", "dimensions", "user")


@dataclass(frozen=True)
class Bounds:
    """inputs: most texts of a request. input_tokens: most tokens of one of them, with its two marks."""

    inputs: int
    input_tokens: int


@dataclass(frozen=True)
class Embedding:
    """Texts whose vectors are wanted; `base64`: as little-endian float32."""

    texts: tuple[str, ...]
    model: str | None
    base64: bool

    def most_tokens(self, bounds: Bounds) -> int:
        """How many tokens they have at most: a token has a byte at least, and a text two marks."""
        return sum(min(len(text.encode()) + 2, bounds.input_tokens) for text in self.texts)


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def parse(body: bytes, bounds: Bounds) -> Embedding:
    """Raises Malformed for what is no JSON object, Rejected (code `invalid_request`) naming every field."""
    try:
        given = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"no JSON object: {error}") from None
    wrong = {f"/{name[:64]}": "there is no such field" for name in given if name not in FIELDS}
    for name, reason in (
        ("input", _wrong_input(given.get("input"), bounds)),
        ("model", _wrong_model(given.get("model"))),
        ("encoding_format", _wrong_format(given.get("encoding_format"))),
        ("dimensions", "the model has one width; leave it out" if given.get("dimensions") else None),
    ):
        if reason is not None:
            wrong[f"/{name}"] = reason
    if wrong:
        raise Rejected(
            f"{len(wrong)} field{'s are' if len(wrong) > 1 else ' is'} wrong",
            fields=dict(list(wrong.items())[:32]),
            code="invalid_request",
        )
    texts = given["input"]
    as_base64 = given.get("encoding_format") == "base64"
    return Embedding((texts,) if isinstance(texts, str) else tuple(texts), given.get("model"), as_base64)


def _wrong_input(value: Any, bounds: Bounds) -> str | None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        return "a text, or a list of texts, is needed"
    if len(texts) > bounds.inputs:
        return f"{len(texts)} texts, and at most {bounds.inputs} are taken at once"
    for at, text in enumerate(texts):
        if isinstance(text, (int, list)):
            return "tokens are not taken; send texts"
        if not isinstance(text, str):
            return f"item {at} is no text"
        if not text.strip():
            return f"text {at} is empty"
        if not text.isprintable() and any("\ud800" <= one <= "\udfff" for one in text):
            return f"text {at} is no Unicode"
    return None


def _wrong_model(value: Any) -> str | None:
    return None if value is None or (isinstance(value, str) and value) else "a name is needed"


def _wrong_format(value: Any) -> str | None:
    return None if value is None or value in FORMATS else f"one of {', '.join(FORMATS)}"
