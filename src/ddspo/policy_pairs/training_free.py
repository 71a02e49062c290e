"""TF-CPP: the frozen reference under the prompt wins over itself under the degraded prompt."""

from dataclasses import dataclass

import torch

from ddspo.maths.pair import Pair
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import Frozen, PolicyPair, Supervision


@dataclass(frozen=True)
class TrainingFree(PolicyPair):
    """target_win = e_ref(x_win, c) and target_lose = e_ref(x_lose, c-) (DDSPO, arXiv 2512.23426).

    The winning target is the winning reference itself, so a pair costs three frozen predictions, not four, and a_win
    is exactly zero.
    """

    frozen_forwards = 3
    reads_degraded = True

    def supervise(self, frozen: Frozen, view: View) -> Supervision:
        """One frozen forward of 3B: the winner under c, the loser under c and under c-; 2B if they are one latent."""
        if view.one_latent:
            return self._of_one_latent(frozen, view)
        x_t = torch.cat([view.x_t.win, view.x_t.lose, view.x_t.lose])
        rows = [view.condition, view.condition, view.degraded]
        condition = {name: torch.cat([row[name] for row in rows]) for name in view.condition}
        win, lose, target = frozen(x_t, view.t.repeat(3), condition).chunk(3)
        return Supervision(reference=Pair(win, lose), target=Pair(win, target))

    def _of_one_latent(self, frozen: Frozen, view: View) -> Supervision:
        condition = {name: torch.cat([rows, view.degraded[name]]) for name, rows in view.condition.items()}
        reference, target = frozen(torch.cat([view.x_t.win] * 2), view.t.repeat(2), condition).chunk(2)
        return Supervision(reference=Pair(reference, reference), target=Pair(reference, target))
