"""Drops a random 40 to 70 % of a prompt's words and keeps the order of the rest (the paper's alignment task)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Interval, Le
from typing_extensions import Doc

from ddspo.degradations.base import Degradation, Degraded
from ddspo.errors import InputError


@dataclass(frozen=True)
class RemoveWords(Degradation):
    """Of n words, drop max(1, floor(r n)) with r uniform in [least, most); at least one word stays."""

    needs: ClassVar[str] = "two words or more"
    by_spaces: ClassVar[bool] = True

    least: Annotated[float, Interval(ge=0, le=1), Doc("smallest share of words that is dropped")] = 0.4
    most: Annotated[float, Interval(ge=0, le=1), Doc("largest share of words that is dropped")] = 0.7
    variants: Annotated[int, Gt(0), Le(10_000), Doc("tries a prompt; equal results are merged")] = 5

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise InputError(f"remove_words: least {self.least} is above most {self.most}: exchange them")

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """Variants of each prompt; none of one word."""
        return [self._variants(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _variants(self, prompt: str, seed: int) -> list[Degraded]:
        words = prompt.split()
        if len(words) < 2:
            return []
        rng = np.random.default_rng(seed)
        whole = " ".join(words)
        tries = (self._shorter(words, rng) for _ in range(self.variants))
        return [Degraded(text, "remove_words") for text in dict.fromkeys(tries) if text != whole]

    def _shorter(self, words: list[str], rng: np.random.Generator) -> str:
        share = rng.uniform(self.least, self.most)
        dropped = min(max(1, int(share * len(words))), len(words) - 1)
        kept = sorted(rng.permutation(len(words))[dropped:])
        return " ".join(words[index] for index in kept)
