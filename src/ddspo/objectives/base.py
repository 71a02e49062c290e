"""What an objective is: displacements of a policy and targets in, a loss and its health out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ddspo.maths.pair import Pair
from ddspo.maths.reward import inner, margin, mean_square
from ddspo.policy_pairs.base import Supervision


class Loss(NamedTuple):
    """A scalar to descend and detached health metrics, all means over the batch."""

    value: Tensor
    log: dict[str, Tensor]


class Displacements(NamedTuple):
    """d = policy - reference and a = target - reference of both branches, in float32 or better."""

    d: Pair[Tensor]
    a: Pair[Tensor]


class Objective(ABC):
    """Turns the policy's predictions and their supervision into a loss."""

    @abstractmethod
    def __call__(self, policy: Pair[Tensor], supervision: Supervision, weight: Tensor) -> Loss:
        """The loss of a batch.

        Args:
            policy: Predictions with gradient, two of [B, ...].
            supervision: Reference and target predictions without gradient.
            weight: omega(t) of each pair, [B].
        """


def displacements(policy: Pair[Tensor], supervision: Supervision) -> Displacements:
    """Form d and a first and in float32 or better: at beta = 16000 rounding of errors would be the signal."""
    reference, target = supervision
    d = Pair(_minus(policy.win, reference.win), _minus(policy.lose, reference.lose))
    a = Pair(_minus(target.win, reference.win), _minus(target.lose, reference.lose))
    return Displacements(d, a)


def health(move: Displacements, beta: float) -> dict[str, Tensor]:
    """What tells whether training works: u, implicit accuracy, |d|^2, the target gap and cos(d_lose, -a_lose).

    With a training-free pair -a_lose is the guidance direction g = e_ref(x, c) - e_ref(x, c-).
    """
    d, a = Pair(*(x.detach() for x in move.d)), move.a
    u = margin(d, a, beta)
    win, lose, gap = mean_square(d.win), mean_square(d.lose), mean_square(a.lose)
    return {
        "u_mean": u.mean(),
        "u_square": u.square().mean(),
        "accuracy": ((u > 0).float() + (u == 0).float() / 2).mean(),
        "win_displacement": win.mean(),
        "lose_displacement": lose.mean(),
        "gap": gap.mean(),
        "cosine": (-inner(d.lose, a.lose) / (lose * gap).sqrt().clamp(min=1e-12)).mean(),
    }


def _minus(x: Tensor, y: Tensor) -> Tensor:
    precise = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(precise) - y.to(precise)
