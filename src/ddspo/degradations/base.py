"""What a degradation is."""

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "BOPOMOFO ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
"""What the Unicode names of letters begin with whose words no space tells apart."""


class Degraded(NamedTuple):
    """A poorer prompt, and what was done to it: `remove_words`, or the skill that it breaks and how."""

    text: str
    kind: str


def overlap(prompt: str, degraded: str) -> float:
    """Share of a prompt's words that its degraded prompt has too, wherever they stand; each word counts once."""
    words, kept = (Counter(text.lower().split()) for text in (prompt, degraded))
    return (words & kept).total() / max(words.total(), 1)


def is_unspaced(text: str) -> bool:
    """Whether most letters are of a script that puts no spaces between words."""
    if text.isascii():
        return False
    letters = [each for each in text if each.isalpha()]
    return 2 * sum(unicodedata.name(each, "").startswith(UNSPACED) for each in letters) > len(letters)


class Degradation(ABC):
    """Makes semantically poorer variants of prompts."""

    needs: ClassVar[str]
    """What a prompt must have to be degraded, for messages: 'two words or more'."""
    by_spaces: ClassVar[bool] = False
    """Whether it tells words apart by the spaces between them, which not all languages have."""
    mechanical: ClassVar[frozenset[str]] = frozenset()
    """Options that change how it works, not what comes out: a run may go on with others."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """The different variants of each prompt, each other than the prompt and not empty; same seed, same variants.

        A prompt that cannot be degraded gets an empty list: whoever asks must say so.
        """

    @property
    def reads(self) -> str | None:
        """A column of the prompts' rows that it reads too."""
        return None

    def of_rows(self, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[list[Degraded]]:
        """As a call with the prompts of rows that have an id, a prompt, and the column that it reads."""
        return self([row["prompt"] for row in rows], seeds)

    def check(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The prompts of rows that cannot be degraded, as far as that is known without long work.

        Raises:
            InputError: What it needs is not there: a model, a server.
        """
        variants = self.of_rows(rows, [0] * len(rows))
        return [row["prompt"] for row, found in zip(rows, variants, strict=True) if not found]

    def finish(self) -> str:
        """Let go of what it loaded; returns a line on what happened, empty where there is nothing to say."""
        return ""
