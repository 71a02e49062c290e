"""What a policy pair is: for either branch, under which prompt predictions are made and whose the target is."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.pairs.view import View


class Target(NamedTuple):
    """A frozen policy whose prediction a branch moves towards or away from, and the prompt that it reads."""

    who: str
    degraded: bool = False


class Side(NamedTuple):
    """A branch of a pair.

    Attributes:
        target: Whose prediction is its target; None: what the forward process itself says (eps, or v).
        degraded: Whether policy and reference read the degraded prompt in this branch.
    """

    target: Target | None
    degraded: bool = False


class Supervision(NamedTuple):
    """Predictions without gradient on both branches; the one stands for another that nobody reads."""

    reference: Pair[Tensor] | None
    target: Pair[Tensor]


class Frozen(Protocol):
    """Predicts without gradient under a frozen policy."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, who: str = "reference") -> Tensor:
        """The prediction of policy `who` for [N, ...], [N] and a condition of N rows."""
        ...


class Ask(NamedTuple):
    """A prediction of somebody for the noised latents of a side, under the prompt or under the degraded one."""

    who: str
    side: str
    degraded: bool


class Asked(NamedTuple):
    """Which predictions a step takes, of each branch that is read, winner first; None: no network says it."""

    policy: tuple[Ask, ...]
    reference: tuple[Ask, ...]
    target: tuple[Ask | None, ...]

    @property
    def frozen(self) -> list[Ask]:
        """Those of frozen policies, each once."""
        return list(dict.fromkeys(ask for ask in (*self.reference, *self.target) if ask))

    @property
    def trained(self) -> list[Ask]:
        """Those of the policy, each once."""
        return list(dict.fromkeys(self.policy))

    @property
    def degraded(self) -> bool:
        """Whether any of them is under the degraded prompt."""
        return any(ask.degraded for ask in (*self.trained, *self.frozen))


class PolicyPair(ABC):
    """Which predictions supervise a step: two sides, and no computation of its own."""

    sides: ClassVar[Pair[Side]]

    @property
    def policies(self) -> tuple[str, ...]:
        """The frozen policies that it may ask for; 'winner' and 'loser' are made by the `pretrain` stage."""
        return tuple(dict.fromkeys(("reference", *(side.target.who for side in self.sides if side.target))))

    @property
    def still(self) -> bool:
        """Whether the winning target is the reference itself, so that a_win = 0."""
        return self.sides.win.target == Target("reference", self.sides.win.degraded)

    @property
    def scores(self) -> bool:
        """Whether the targets are predictions of frozen policies, which exist for any latent and any prompt."""
        return all(side.target for side in self.sides)

    def asks(self, *, one_latent: bool = False, reference: bool = True, lose: bool = True) -> Asked:
        """The predictions of a pair.

        Args:
            one_latent: Whether both branches look at the very same noised latent.
            reference: Whether the objective reads the reference.
            lose: Whether it reads the losing branch.
        """
        sides = [("win", self.sides.win), *([("win" if one_latent else "lose", self.sides.lose)] if lose else [])]
        return Asked(
            policy=tuple(Ask("policy", where, side.degraded) for where, side in sides),
            reference=tuple(Ask("reference", where, side.degraded) for where, side in sides if reference),
            target=tuple(
                Ask(side.target.who, where, side.target.degraded) if side.target else None for where, side in sides
            ),
        )

    def supervise(self, frozen: Frozen, view: View, *, reference: bool = True, lose: bool = True) -> Supervision:
        """Reference and target predictions of a noised batch, in one forward of each frozen policy that is asked."""
        asked = self.asks(one_latent=view.one_latent, reference=reference, lose=lose)
        found = predicted(asked.frozen, frozen, view)
        process = (view.path.target(x0, noise, view.t) for x0, noise in zip(view.x0, view.noise, strict=True))
        targets = [found[ask] if ask else own for ask, own in zip(asked.target, process, strict=False)]
        origin = [found[ask] for ask in asked.reference]
        return Supervision(both(origin) if origin else None, both(targets))


def predicted(asked: Sequence[Ask], predict: Frozen, view: View) -> dict[Ask, Tensor]:
    """What different ones ask for, in one forward of every policy among them."""
    found: dict[Ask, Tensor] = {}
    latents = view.x_t._asdict()
    for who in dict.fromkeys(ask.who for ask in asked):
        mine = [ask for ask in asked if ask.who == who]
        x_t = torch.cat([latents[ask.side] for ask in mine])
        rows = [view.degraded if ask.degraded else view.condition for ask in mine]
        condition = {name: torch.cat([row[name] for row in rows]) for name in view.condition}
        parts = predict(x_t, view.t.repeat(len(mine)), condition, who).chunk(len(mine))
        found |= dict(zip(mine, parts, strict=True))
    return found


def both(sides: Sequence[Tensor]) -> Pair[Tensor]:
    """Of one or two branches; the only one stands for the other, which nobody reads."""
    return Pair(sides[0], sides[-1])
