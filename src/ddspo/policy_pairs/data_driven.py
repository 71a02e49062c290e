"""DD-CPP: one policy that learned from preferred samples wins over one that learned from dispreferred ones."""

from dataclasses import dataclass

import torch

from ddspo.maths.pair import Pair
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import Frozen, PolicyPair, Supervision


@dataclass(frozen=True)
class DataDriven(PolicyPair):
    """target_win = e_winner(x_win, c) and target_lose = e_loser(x_lose, c) (DDSPO, arXiv 2512.23426).

    Winner and loser are the base after a short fine-tuning on the preferred and on the dispreferred samples, which the
    `pretrain` stage does. Degraded prompts play no part.
    """

    frozen_forwards = 4
    policies = ("reference", "winner", "loser")

    def supervise(self, frozen: Frozen, view: View) -> Supervision:
        """One frozen forward of 2B for the reference, or of B where both branches are one latent, and two of B."""
        if view.one_latent:
            reference = frozen(view.x_t.win, view.t, view.condition)
            win, lose = reference, reference
        else:
            condition = {name: torch.cat([rows, rows]) for name, rows in view.condition.items()}
            win, lose = frozen(torch.cat(view.x_t), view.t.repeat(2), condition).chunk(2)
        target = Pair(
            frozen(view.x_t.win, view.t, view.condition, who="winner"),
            frozen(view.x_t.lose, view.t, view.condition, who="loser"),
        )
        return Supervision(reference=Pair(win, lose), target=target)
