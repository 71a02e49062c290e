"""Displacements of pairs, by hand and at random, for tests of objectives."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ddspo.maths.pair import Pair
from ddspo.objectives.base import Branches, Objective, branches
from ddspo.policy_pairs.base import Supervision

Values = Sequence[Sequence[float]]
"""Pairs of elements."""


def by_hand(d_win: Values, a_win: Values, d_lose: Values, a_lose: Values) -> Branches:
    """In float64; d remembers its gradient."""
    d_w, a_w, d_l, a_l = (torch.tensor(each, dtype=torch.float64) for each in (d_win, a_win, d_lose, a_lose))
    return Branches(Pair(d_w.requires_grad_(), d_l.requires_grad_()), Pair(a_w, a_l))


def at_random(pairs: int = 4, size: float = 1.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> Branches:
    """Of 2 x 3 elements each, with gaps."""
    generator = torch.Generator().manual_seed(seed)
    parts = [size * torch.randn(pairs, 2, 3, generator=generator, dtype=dtype) for _ in range(4)]
    gap = torch.linspace(-0.1, 0.4, pairs, dtype=dtype)
    return Branches(Pair(parts[0].requires_grad_(), parts[1].requires_grad_()), Pair(parts[2], parts[3]), gap=gap)


def surveyed(objective: Objective, seen: Branches) -> Branches:
    """With the mean that the objective asks for, as a step finds it."""
    if not objective.needs.mean:
        return seen
    with torch.no_grad():
        return replace(seen, mean=objective.averaged(seen).mean())


def gradients(objective: Objective, seen: Branches) -> Pair[Tensor]:
    """Of the sum of all losses, with respect to the policy's predictions on either branch."""
    found = torch.autograd.grad(objective(seen).sum(), list(seen.d), allow_unused=True, materialize_grads=True)
    return Pair(*found)


def predictions(pairs: int = 3, seed: int = 0) -> tuple[Pair[Tensor], Supervision, Branches]:
    """Policy, reference and target at random in float64, and what the house makes of them."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(pairs, 2, 3, generator=generator, dtype=torch.float64) for _ in range(6)]
    policy = Pair(parts[0].requires_grad_(), parts[1].requires_grad_())
    supervision = Supervision(Pair(parts[2], parts[3]), Pair(parts[4], parts[5]))
    return policy, supervision, branches(policy, supervision)
