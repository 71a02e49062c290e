"""Breaks one skill of a prompt by rule: an object, count, attribute or relation is removed, generalised or swapped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Le, MinLen
from typing_extensions import Doc

from ddspo.degradations._edits import SKILLS, Edit, edits
from ddspo.degradations._failures import failure_rates
from ddspo.degradations._reading import WORD
from ddspo.degradations.base import Degradation, Degraded
from ddspo.degradations.remove_words import RemoveWords
from ddspo.places import local
from ddspo.prompts.reading import read_prompts


@dataclass(frozen=True)
class Skills(Degradation):
    """Variants of a prompt in each of which one skill is broken; their kind names both: 'swap_colour'.

    A skill of those that the prompt tests is drawn (equally, or as the base model fails at it), then one of the ways
    to break it, until there are `variants` or no more. Rules, word lists and a tagger with its own lexicon: English.
    """

    needs: ClassVar[str] = "an object, a count, an attribute or a relation that the word lists know"
    by_spaces: ClassVar[bool] = True

    operations: Annotated[
        tuple[Literal["remove", "generalise", "swap"], ...], MinLen(1), Doc("what may be done to a skill")
    ] = ("remove", "generalise", "swap")
    variants: Annotated[
        int, Gt(0), Le(10_000), Doc("different variants a prompt, at most; with 1, skills are as often as drawn")
    ] = 3
    scores: Annotated[
        str | None,
        Doc("scores/geneval.jsonl of a run: the more the base model fails at a skill, the more often it is drawn"),
    ] = None
    vocabulary: Annotated[
        str | None, Doc("prompt file whose words alone are put into prompts, for a model that knows few; null: any")
    ] = None
    without: Annotated[
        Literal["report", "remove_words"],
        Doc("a prompt in which no skill is found is reported as not degraded, or loses words"),
    ] = "report"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """Variants of each prompt.

        Raises:
            InputError: The file of scores or of the vocabulary is missing or something else.
        """
        return [self._variants(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def finish(self) -> str:
        """Let go of the rates and of the vocabulary."""
        for read in ("_rates", "_words"):
            vars(self).pop(read, None)
        return ""

    def _variants(self, prompt: str, seed: int) -> list[Degraded]:
        rng = np.random.default_rng(seed)
        found = [edit for edit in edits(prompt, rng, self._words) if edit.operation in self.operations]
        if not found and self.without == "remove_words":
            return RemoveWords(variants=self.variants)([prompt], [seed])[0]
        return [Degraded(edit.text, f"{edit.operation}_{edit.skill}") for edit in self._draw(found, rng)]

    def _draw(self, found: Sequence[Edit], rng: np.random.Generator) -> list[Edit]:
        left, chosen = list(found), list[Edit]()
        while left and len(chosen) < self.variants:
            skills = [skill for skill in SKILLS if any(edit.skill == skill for edit in left)]
            rates = np.array([self._rates[skill] for skill in skills])
            skill = skills[rng.choice(len(skills), p=rates / rates.sum())]
            mine = [edit for edit in left if edit.skill == skill]
            chosen.append(mine[rng.integers(len(mine))])
            left.remove(chosen[-1])
        return chosen

    @cached_property
    def _rates(self) -> Mapping[str, float]:
        """How likely a skill is to be drawn, up to a factor."""
        if self.scores is None:
            return dict.fromkeys(SKILLS, 1.0)
        return failure_rates(local(self.scores) or Path(self.scores), "degradation.skills.scores")

    @cached_property
    def _words(self) -> frozenset[str] | None:
        if self.vocabulary is None:
            return None
        rows = read_prompts(self.vocabulary, "degradation.skills.vocabulary")
        return frozenset(word for row in rows for word in WORD.findall(row["prompt"].lower()))
