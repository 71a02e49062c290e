"""What is known of a pair beside its texts and latents: scores, a label, and the seeds that it was sampled from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddspo.maths.pair import Pair

SCORES = Pair("win_score", "lose_score")
"""Columns of what a judge or a dataset says of either side."""
LABEL = "label"
"""The column of +1 for wanted and -1 for unwanted single samples."""
SEEDS = (Pair("win_seed", "lose_seed"), Pair("seed", "seed"))
"""Columns of the seeds of either side; of both ways to keep them a store has one."""


class Marks(NamedTuple):
    """What is known of N pairs, [N] each; None of what such pairs do not have.

    Attributes:
        gap: By how much the winner's score is better than the loser's, float32.
        label: +1 for a wanted and -1 for an unwanted single sample, float32.
        seeds: The seed of the initial noise that either side was sampled from, int64.
    """

    gap: Tensor | None = None
    label: Tensor | None = None
    seeds: Pair[Tensor] | None = None

    def take(self, rows: Sequence[int]) -> "Marks":
        """Those of some pairs."""
        gap, label = (part if part is None else part[rows] for part in (self.gap, self.label))
        return Marks(gap, label, self.seeds.map(lambda side: side[rows]) if self.seeds else None)


def marks_of(found: Mapping[str, Tensor], seeds: Pair[str] | None, *, less: bool) -> Marks:
    """Those in the columns of a store.

    Args:
        found: The columns, [N] each; scores are subtracted in their own precision.
        seeds: Which of them hold the seeds.
        less: Whether the smaller score is the better one.
    """
    gap = label = None
    if SCORES.win in found:
        gap = ((found[SCORES.win] - found[SCORES.lose]) * (-1 if less else 1)).float()
    if LABEL in found:
        label = found[LABEL].to(torch.float32)
    return Marks(gap, label, seeds.map(lambda name: found[name]) if seeds else None)
