"""What an objective is: the displacements of some pairs in, the loss of each pair out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.maths.reward import inner, margin, mean_square, reward
from ddspo.policy_pairs.base import PolicyPair, Supervision


class Loss(NamedTuple):
    """A scalar to descend and detached health metrics, all means over the batch."""

    value: Tensor
    log: dict[str, Tensor]


class Needs(NamedTuple):
    """What an objective reads beside the winning branch; a step runs the forwards that this takes, and no others.

    Attributes:
        reference: The reference's predictions.
        lose: The losing branch.
        gap: How much better the winner was scored than the loser.
        mean: A mean over the whole batch of an update, for which all of it is predicted once more.
        label: It can take single labelled samples in place of pairs.
    """

    reference: bool = True
    lose: bool = True
    gap: bool = False
    mean: bool = False
    label: bool = False


@dataclass(frozen=True)
class Branches:
    """What is known of B pairs in a step, in float32 or better; the one branch stands for another that nobody reads.

    Attributes:
        d: Displacement of the policy, policy - reference, [B, ...] on either side.
        a: Displacement of the target, target - reference. Where no reference is predicted the target is the origin, so
            that d = policy - target and a = 0.
        label: Of single labelled samples, which are the winning branch: +1 wanted, -1 unwanted, [B]; None: pairs.
        gap: Score of the winner minus that of the loser, [B].
        mean: Mean of `Objective.averaged` over the whole batch of the update, a number.
    """

    d: Pair[Tensor]
    a: Pair[Tensor]
    label: Tensor | None = None
    gap: Tensor | None = None
    mean: Tensor | None = None

    @property
    def e(self) -> Pair[Tensor]:
        """Error of the policy, policy - target = d - a."""
        return Pair(self.d.win - self.a.win, self.d.lose - self.a.lose)

    def scaled(self, scale: Tensor) -> "Branches":
        """The same with d and a times a number of each pair, [B]: R and u are then times its square."""
        factor = scale.view(-1, *[1] * (self.d.win.ndim - 1)).to(self.d.win.dtype)
        return replace(self, d=self.d.map(lambda x: factor * x), a=self.a.map(lambda x: factor * x))


class Objective(ABC):
    """Turns displacements into losses."""

    @property
    def needs(self) -> Needs:
        """What it reads."""
        return Needs()

    @property
    def steady(self) -> bool:
        """Whether its loss starts at one value whatever the batch, so that a jump of it means something."""
        return True

    @abstractmethod
    def __call__(self, seen: Branches) -> Tensor:
        """The loss of each pair, [B]."""

    def margin(self, seen: Branches) -> Tensor | None:
        """u of each pair, [B], if it has one."""
        return None

    def averaged(self, seen: Branches) -> Tensor:
        """What `Branches.mean` is the mean of, for an objective that needs it."""
        raise NotImplementedError

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """Why it makes no sense with a policy pair, or None."""
        return None


Beta = Annotated[float, Gt(0), Le(1e9), Doc("inverse temperature, for errors that are means over dimensions")]
"""One convention everywhere: R = (beta / 2)(|reference - target|^2 - |policy - target|^2)."""


@dataclass(frozen=True)
class Margin(Objective):
    """An objective with the margin u = R_win - R_lose of implicit rewards."""

    beta: Beta = 2000.0

    def margin(self, seen: Branches) -> Tensor:
        """u of each pair, [B]."""
        return margin(seen.d, seen.a, self.beta)

    def rewards(self, seen: Branches) -> Pair[Tensor]:
        """R of both branches, [B] each."""
        return Pair(reward(seen.d.win, seen.a.win, self.beta), reward(seen.d.lose, seen.a.lose, self.beta))


@dataclass(frozen=True)
class Link(Margin):
    """An objective that is a function of u alone."""

    def __call__(self, seen: Branches) -> Tensor:
        """That function of each u."""
        return self.link(self.margin(seen))

    @abstractmethod
    def link(self, u: Tensor) -> Tensor:
        """The loss of each margin, [B]."""


def branches(policy: Pair[Tensor], supervision: Supervision) -> Branches:
    """Form d and a first and in float32 or better: at beta = 16000 rounding of errors would be the signal."""
    target = supervision.target
    if supervision.reference is None:
        d = Pair(_minus(policy.win, target.win), _minus(policy.lose, target.lose))
        return Branches(d, d.map(torch.zeros_like))
    reference = supervision.reference
    d = Pair(_minus(policy.win, reference.win), _minus(policy.lose, reference.lose))
    return Branches(d, Pair(_minus(target.win, reference.win), _minus(target.lose, reference.lose)))


def health(seen: Branches, u: Tensor | None, needs: Needs) -> dict[str, Tensor]:
    """What tells whether training works: u, implicit accuracy, |d|^2, the target gap and cos(d_lose, -a_lose).

    With a training-free pair -a_lose is the guidance direction g = e_ref(x, c) - e_ref(x, c-). Without a reference
    nothing has moved from anywhere, and the errors |policy - target|^2 are logged; without a losing branch, as single
    samples are, what is known of the other.
    """
    d, a = Pair(*(x.detach() for x in seen.d)), seen.a
    found: dict[str, Tensor] = {}
    if u is not None:
        u = u.detach()
        found = {"u_mean": u.mean(), "u_square": u.square().mean()}
        found["accuracy"] = ((u > 0).float() + (u == 0).float() / 2).mean()
    win, lose, loses = mean_square(d.win), mean_square(d.lose), needs.lose and seen.label is None
    if not needs.reference:
        return found | {"win_error": win.mean()} | ({"lose_error": lose.mean()} if loses else {})
    found["win_displacement"] = win.mean()
    if loses:
        gap = mean_square(a.lose)
        cosine = -inner(d.lose, a.lose) / (lose * gap).sqrt().clamp(min=1e-12)
        found |= {"lose_displacement": lose.mean(), "gap": gap.mean(), "cosine": cosine.mean()}
    return found


def _minus(x: Tensor, y: Tensor) -> Tensor:
    precise = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(precise) - y.to(precise)
