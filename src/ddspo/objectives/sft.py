"""Plain fine-tuning on the winners: what a preference method has to beat."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Branches, Needs, Objective
from ddspo.policy_pairs.base import PolicyPair


@dataclass(frozen=True)
class SFT(Objective):
    """loss = |policy - target|^2 of the winner alone: neither a reference nor losers are predicted, or sampled."""

    @property
    def needs(self) -> Needs:
        """The winner's error."""
        return Needs(reference=False, lose=False)

    @property
    def steady(self) -> bool:
        """It varies with the times drawn."""
        return False

    def __call__(self, seen: Branches) -> Tensor:
        """|e_win|^2."""
        return mean_square(seen.e.win)

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """Where the winner's target is the reference, the loss is 0 from the start."""
        idle = "its winning target is the model itself, and loss and gradient are 0: use forward_noise"
        return idle if policy_pair.still else None
