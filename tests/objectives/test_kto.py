"""Diffusion-KTO by hand: samples against the mean of their batch."""

import math
from dataclasses import replace

import pytest
import torch
from branches import by_hand, gradients, predictions, surveyed

from ddspo.objectives.kto import KTO

P = 1 / (1 + math.exp(3))
"""sigma(-3)."""


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "loss", "win", "lose"),
    [
        (3.0, (1 / 2 + P) / 2, -1 / 4, -P * (1 - P)),
        (0.0, (P + 1 / 2) / 2, -P * (1 - P), -1 / 4),
        (-5.0, (P + 1 / 2) / 2, -P * (1 - P), -1 / 4),
    ],
)
def test_pairs(mean: float, loss: float, win: float, lose: float) -> None:
    """One element, beta 2: (d, a) = (1, 2) has R = 3, (2, 1) has R = 0; dR/dd = beta (a - d) = 2 and -2.

    Loss (sigma(z - R_win) + sigma(R_lose - z)) / 2, z = max(mean, 0): at z = 3, (1/2 + sigma(-3)) / 2; at z = 0,
    (sigma(-3) + 1/2) / 2. With sigma' = sigma (1 - sigma), the gradients are -sigma'(z - R_win) 2 / 2 and
    sigma'(R_lose - z) (-2) / 2. A mean below 0 counts as 0.
    """
    seen = replace(by_hand([[1]], [[2]], [[2]], [[1]]), mean=number(mean))
    objective = KTO(beta=2)
    found = gradients(objective, seen)
    assert objective(seen).item() == pytest.approx(loss, rel=1e-12)
    assert (found.win.item(), found.lose.item()) == pytest.approx((win, lose), rel=1e-12)
    assert objective.averaged(seen).item() == 3 / 2
    assert objective.margin(seen).item() == 3


def test_single_samples() -> None:
    """R = 3, 0 and 3, the first wanted, z = 3: sigma(-(3 - 3)) = 1/2, sigma(0 - 3) = P and sigma(3 - 3) = 1/2.

    The losing side is not read. The margin is R of what is wanted, and -R of what is not.
    """
    seen = replace(
        by_hand([[1], [2], [1]], [[2], [1], [2]], [[math.nan]] * 3, [[math.nan]] * 3),
        label=torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64),
        mean=number(3),
    )
    objective = KTO(beta=2)
    torch.testing.assert_close(objective(seen), torch.tensor([1 / 2, P, 1 / 2], dtype=torch.float64))
    assert objective.averaged(seen).tolist() == [3, 0, 3]
    assert objective.margin(seen).tolist() == [3, 0, -3]


@pytest.mark.parametrize(("seed", "above"), [(2, True), (1, False)])
def test_published(seed: int, above: bool) -> None:
    """Of 2 B samples, 1 - sigma(y beta (r - z)), r = L_ref - L_theta, z = max(mean r, 0) detached; ours is 2 beta.

    With z differentiated the gradients would be others wherever the mean is above 0.
    """
    policy, (reference, target), seen = predictions(pairs=4, seed=seed)
    assert reference is not None
    error = [[(x - y).square().mean((1, 2)) for x, y in zip(who, target, strict=True)] for who in (policy, reference)]
    r = torch.cat([error[1][0] - error[0][0], error[1][1] - error[0][1]])
    assert (r.mean() > 0) == above
    wanted = torch.cat([torch.ones(4), -torch.ones(4)])
    theirs = (1 - torch.sigmoid(wanted * 1.5 * (r - r.mean().clamp(min=0).detach()))).mean()
    given = surveyed(KTO(beta=3), seen)
    torch.testing.assert_close(KTO(beta=3)(given).mean(), theirs, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(theirs, list(policy))
    for found, right in zip(gradients(KTO(beta=3), given), expected, strict=True):
        torch.testing.assert_close(found / 4, right, rtol=1e-10, atol=1e-14)


def test_nothing_is_wanted_where_the_winner_is_the_reference() -> None:
    """a_win = 0: R_win = -(beta / 2) |d|^2, at most 0, and no d makes it more."""
    seen = by_hand([[1], [-2], [0]], [[0]] * 3, [[0]] * 3, [[1]] * 3)
    assert KTO(beta=2).rewards(seen).win.tolist() == [-1, -4, 0]
