"""What a policy pair is: reference and target predictions for a noised pair of latents."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.pairs.view import View


class Supervision(NamedTuple):
    """Predictions without gradient on both branches."""

    reference: Pair[Tensor]
    target: Pair[Tensor]


class Frozen(Protocol):
    """Predicts without gradient under a frozen policy."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, who: str = "reference") -> Tensor:
        """The prediction of policy `who` for [N, ...], [N] and a condition of N rows."""
        ...


class PolicyPair(ABC):
    """Supplies the reference and the target of every step."""

    policies: ClassVar[tuple[str, ...]] = ("reference",)
    """The frozen policies that it asks for; 'winner' and 'loser' are made by the `pretrain` stage."""
    reads_degraded: ClassVar[bool] = False
    """Whether it asks for predictions under the degraded prompts."""
    scores: ClassVar[bool] = True
    """Whether the targets are predictions of frozen policies, which exist for any latent and any prompt."""

    frozen_forwards: ClassVar[int]
    """Frozen predictions that one pair takes; one less where both branches look at one latent."""

    @abstractmethod
    def supervise(self, frozen: Frozen, view: View) -> Supervision:
        """Reference and target predictions of one noised batch, in as few frozen forwards as they need."""
