"""BERT's uncased tokens: normalize, split at blanks and punctuation, then the longest pieces that are known.

The same tokens as those of Hugging Face's `BertNormalizer`, `BertPreTokenizer` and `WordPiece`, but a text
that spells a special token (`[SEP]`) is text. Devlin et al., https://arxiv.org/abs/1810.04805
"""

import unicodedata
from collections.abc import Iterator, Sequence

UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"
LONGEST_WORD = 100
_BLANKS = frozenset("\t\n\r")
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_PUNCTUATION = ((33, 47), (58, 64), (91, 96), (123, 126))


class WordPiece:
    """The tokens of a vocabulary, in its order; a token's id is its line."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {word: number for number, word in enumerate(vocabulary)}
        self._unknown, self._begin, self._end = (self._ids[name] for name in (UNKNOWN, BEGIN, END))
        self._longest = max(map(len, vocabulary))

    def encode(self, text: str, *, most: int) -> list[int] | None:
        """The ids of a text between those of `[CLS]` and `[SEP]`; None where they are more than `most`."""
        found = [self._begin]
        for word in _words(text):
            found += self._pieces(word)
            if len(found) >= most:  # the last one is still to come
                return None
        found.append(self._end)
        return found

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        found: list[int] = []
        at = 0
        while at < len(word):
            prefix = "##" if at else ""
            for end in range(min(len(word), at + self._longest), at, -1):
                piece = self._ids.get(prefix + word[at:end])
                if piece is not None:
                    found.append(piece)
                    at = end
                    break
            else:
                return [self._unknown]
        return found


def _words(text: str) -> Iterator[str]:
    for part in _normal(text).split():
        word = ""
        for character in part:
            if _is_punctuation(character):
                if word:
                    yield word
                    word = ""
                yield character
            else:
                word += character
        if word:
            yield word


def _normal(text: str) -> str:
    clean = []
    for character in text:
        if character in _BLANKS or (character.isspace() and unicodedata.category(character)[0] != "C"):
            clean.append(" ")
        elif character == "\ufffd" or unicodedata.category(character)[0] == "C":
            continue
        elif _within(ord(character), _IDEOGRAPHS):
            clean.append(f" {character} ")
        else:
            clean.append(character)
    apart = unicodedata.normalize("NFD", "".join(clean))
    # each by itself, so that there is no final sigma
    return "".join(one.lower() for one in apart if unicodedata.category(one) != "Mn")


def _is_punctuation(character: str) -> bool:
    return _within(ord(character), _PUNCTUATION) or unicodedata.category(character)[0] == "P"


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)
