"""The forward process as target: the same run becomes Diffusion-DPO."""

from dataclasses import dataclass

import torch

from ddspo.maths.pair import Pair
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import Frozen, PolicyPair, Supervision


@dataclass(frozen=True)
class ForwardNoise(PolicyPair):
    """target = the forward process's own (eps, or v) on both branches (Diffusion-DPO, arXiv 2311.12908)."""

    frozen_forwards = 2
    scores = False

    def supervise(self, frozen: Frozen, view: View) -> Supervision:
        """One frozen forward of 2B for the reference; the target costs nothing."""
        condition = {name: torch.cat([rows, rows]) for name, rows in view.condition.items()}
        win, lose = frozen(torch.cat(view.x_t), view.t.repeat(2), condition).chunk(2)
        target = Pair(
            view.path.target(view.x0.win, view.noise.win, view.t),
            view.path.target(view.x0.lose, view.noise.lose, view.t),
        )
        return Supervision(reference=Pair(win, lose), target=target)
