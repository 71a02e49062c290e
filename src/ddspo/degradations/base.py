"""What a degradation is."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class Degraded(NamedTuple):
    """A poorer prompt, and what was done to it: `remove_words`, or the skill that it breaks and how."""

    text: str
    kind: str


def overlap(prompt: str, degraded: str) -> float:
    """Share of a prompt's words that its degraded prompt has too, wherever they stand; each word counts once."""
    words, kept = (Counter(text.lower().split()) for text in (prompt, degraded))
    return (words & kept).total() / max(words.total(), 1)


class Degradation(ABC):
    """Makes semantically poorer variants of prompts."""

    needs: ClassVar[str]
    """What a prompt must have to be degraded, for messages: 'two words or more'."""
    mechanical: ClassVar[frozenset[str]] = frozenset()
    """Options that change how it works, not what comes out: a run may go on with others."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """The different variants of each prompt, each other than the prompt and not empty; same seed, same variants.

        A prompt that cannot be degraded gets an empty list: whoever asks must say so.
        """

    def check(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that cannot be degraded, as far as that is known without long work.

        Raises:
            InputError: What it needs is not there: a model, a server.
        """
        variants = self(prompts, [0] * len(prompts))
        return [prompt for prompt, found in zip(prompts, variants, strict=True) if not found]

    def finish(self) -> str:
        """Let go of what it loaded; returns a line on what happened, empty where there is nothing to say."""
        return ""
