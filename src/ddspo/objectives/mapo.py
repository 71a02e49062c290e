"""MaPO: winners are learned, and preferred to losers by a bounded function of the errors; no reference is run."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import Doc

from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Branches, Needs, Objective


@dataclass(frozen=True)
class MaPO(Objective):
    """loss = L_win + weight softplus(-T (f(L_win) - f(L_lose))), f(L) = s L / (exp(s L) - 1) (arXiv 2406.06424).

    L = |policy - target|^2, s = snr. f falls from 1 with slope -s / 2 at L = 0, so that for small errors the second
    term is a logistic one of beta = s T without a reference (500 by default), beside plain training on winners.
    `weight` is the published beta.
    """

    weight: Annotated[float, Gt(0), Doc("weight of the preference beside the winner's error; published as beta")] = 0.1
    snr: Annotated[float, Gt(0), Doc("s: how fast the likelihood falls with the error")] = 0.5
    scale: Annotated[float, Gt(0), Doc("T: number of steps of the forward process, which scales the margin")] = 1000.0

    @property
    def needs(self) -> Needs:
        """Errors of policy and targets alone."""
        return Needs(reference=False)

    @property
    def steady(self) -> bool:
        """It is mostly a denoising loss, which varies with the times drawn."""
        return False

    def __call__(self, seen: Branches) -> Tensor:
        """L_win + weight softplus(-T (f(L_win) - f(L_lose)))."""
        win, lose = seen.e.map(mean_square)
        return win + self.weight * softplus(-self.scale * (self._likelihood(win) - self._likelihood(lose)))

    def _likelihood(self, error: Tensor) -> Tensor:
        """x / (exp(x) - 1) with x = s L, in exp(-x), which cannot overflow; near 0 its series 1 - x / 2 + x^2 / 12."""
        x = self.snr * error
        small = x < 1e-2
        safe = torch.where(small, torch.ones_like(x), x)
        return torch.where(small, 1 - x / 2 + x.square() / 12, safe * torch.exp(-safe) / -torch.expm1(-safe))
