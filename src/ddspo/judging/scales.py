"""The guidance scale that a model follows prompts best at, and scales that it cannot be."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ddspo.maths.statistics import overall, sign_flip

Scored = dict[float, tuple[list[str], list[float]]]
"""Of each scale the groups and the scores of a model's images, of the same prompts in the same order."""


def best(curve: Mapping[float, float]) -> float:
    """The scale of the highest score; of equal ones the smallest."""
    return min(curve, key=lambda scale: (-curve[scale], scale))


def can_show(prompts: int, scales: int, error: float) -> bool:
    """Whether so many prompts are enough for `may_be_best` to give a scale up: at p = 2^-prompts, where all agree."""
    return 2.0**-prompts * (scales - 1) < error


def may_be_best(found: Scored, error: float) -> set[float]:
    """The scales that one image of each prompt leaves.

    One of K scales is given up where the best of them, prompt by prompt, is better with p < error / (K - 1) in a test
    of random signs. So the scale that is best on all such prompts and images is given up with probability `error` at
    most, whichever others seem better.
    """
    lead = best({scale: overall(*each) for scale, each in found.items()})
    others = [scale for scale in found if scale != lead]
    return {lead, *(scale for scale in others if _lag(found, lead, scale) * len(others) >= error)}


def _lag(found: Scored, lead: float, scale: float) -> float:
    """How probable it is, were two scales alike, that one leads by so much."""
    differences: dict[str, list[float]] = defaultdict(list)
    (groups, ahead), (_, behind) = found[lead], found[scale]
    for group, one, other in zip(groups, ahead, behind, strict=True):
        differences[group].append(one - other)
    return sign_flip({group: np.array(values) for group, values in differences.items()})
