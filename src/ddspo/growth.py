"""How a run grows: which stages go on from what they left where a recipe asks for more, and which start anew."""

from collections.abc import Mapping
from dataclasses import dataclass

from ddspo.recipe import Recipe

GROWS = {"sample": ("sample", "pairs"), "train": ("train", "steps")}
"""Of a stage the number that may become larger: what it left is where it goes on."""
ENDLESS = "constant_with_warmup"
"""The schedule that is the same however many updates there will be."""


@dataclass(frozen=True)
class Growth:
    """What goes on and what starts anew.

    Attributes:
        goes_on: Stages that do more: the number that they had, and the one that they shall have.
        anew: Stages that are done again from nothing.
    """

    goes_on: Mapping[str, tuple[int, int]]
    anew: tuple[str, ...]

    @classmethod
    def of(cls, goes_on: Mapping[str, tuple[int, int]], recipe: Recipe) -> "Growth":
        """What follows from more pairs or updates.

        A policy that would see the new pairs in no update starts anew, and so does one whose winner and loser do.
        """
        if "sample" not in goes_on:
            return cls(goes_on, ())
        keeps = "train" in goes_on and not recipe.pretrains
        left = {name: numbers for name, numbers in goes_on.items() if keeps or name != "train"}
        return cls(left, ("pretrain",) if keeps else ("pretrain", "train"))

    def lines(self) -> list[str]:
        """What goes on, in words."""
        return [
            f"{name}: goes on from {old:,} {GROWS[name][1]} to {new:,}" for name, (old, new) in self.goes_on.items()
        ]


def why_not(stage: str, recipe: Recipe) -> str:
    """Why a stage cannot go on to a larger number, if its options are a reason."""
    schedule = recipe.train.schedule
    if stage != "train" or schedule == ENDLESS:
        return ""
    return f" (a {schedule} schedule ends with its last update: only {ENDLESS} goes on)"
