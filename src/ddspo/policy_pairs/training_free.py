"""TF-CPP: the frozen reference under the prompt wins over itself under the degraded prompt."""

from dataclasses import dataclass

from ddspo.maths.pair import Pair
from ddspo.policy_pairs.base import PolicyPair, Side, Target


@dataclass(frozen=True)
class TrainingFree(PolicyPair):
    """target_win = e_ref(x_win, c) and target_lose = e_ref(x_lose, c-) (DDSPO, arXiv 2512.23426).

    The winning target is the winning reference itself, so a pair costs three frozen predictions, not four, and a_win
    is exactly zero.
    """

    sides = Pair(win=Side(Target("reference")), lose=Side(Target("reference", degraded=True)))
