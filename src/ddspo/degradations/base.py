"""What a degradation is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Degradation(ABC):
    """Makes semantically poorer variants of prompts."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
        """One or more variants of each prompt, each other than the prompt and not empty; same seed, same variants.

        Raises:
            InputError: A prompt cannot be degraded; names it.
        """
