"""DD-CPP: one policy that learned from preferred samples wins over one that learned from dispreferred ones."""

from dataclasses import dataclass

from ddspo.maths.pair import Pair
from ddspo.policy_pairs.base import PolicyPair, Side, Target


@dataclass(frozen=True)
class DataDriven(PolicyPair):
    """target_win = e_winner(x_win, c) and target_lose = e_loser(x_lose, c) (DDSPO, arXiv 2512.23426).

    Winner and loser are the base after a short fine-tuning on the preferred and on the dispreferred samples, which the
    `pretrain` stage does. Degraded prompts play no part.
    """

    sides = Pair(win=Side(Target("winner")), lose=Side(Target("loser")))
