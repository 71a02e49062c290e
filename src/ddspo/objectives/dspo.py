"""DSPO, the form for noise-predicting UNets: fine-tuning on winners, with a push away from the reference."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Branches, Margin
from ddspo.policy_pairs.base import PolicyPair


@dataclass(frozen=True)
class DSPO(Margin):
    """loss = |e_win - beta (1 - sigma(u)) d_win|^2 (Zhu et al., ICLR 2025; its release for SD 1.5).

    e = policy - target. sigma is differentiated, so that losers matter through u alone. Its gradient starts as
    (1 - beta / 2) times that of plain fine-tuning on winners: the published beta of .001 to .05 is nearly that, from 2
    on it points the other way. beta is the published one, in u and in front of d.
    """

    beta: Annotated[float, Gt(0), Le(1e9), Doc("of u, and of the push away from the reference")] = 1e-3

    @property
    def steady(self) -> bool:
        """It varies with the times drawn."""
        return False

    def __call__(self, seen: Branches) -> Tensor:
        """|e_win - beta (1 - sigma(u)) d_win|^2."""
        push = (-self.margin(seen)).sigmoid().view(-1, *[1] * (seen.d.win.ndim - 1))
        return mean_square(seen.e.win - self.beta * push * seen.d.win)

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """With a_win = 0 the loss is |(1 - beta (1 - sigma(u))) d_win|^2."""
        return "loss and gradient are 0 at the start, whatever beta: use dspo_sdxl" if policy_pair.still else None
