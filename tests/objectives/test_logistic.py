"""The logistic objective: its start, its gradients by the formula, and its health metrics by hand."""

import math

import pytest
import torch

from ddspo.maths.pair import Pair
from ddspo.maths.reward import margin
from ddspo.objectives.base import Branches, Needs, branches, health
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.base import Supervision

B, SHAPE = 3, (4, 2, 2)
D = math.prod(SHAPE)
BETA = 50.0


def tensors(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def gradients(d: Pair, supervision: Supervision) -> tuple[torch.Tensor, Pair]:
    policy = Pair(*(r + x for r, x in zip(supervision.reference, d, strict=True))).map(
        lambda x: x.requires_grad_(True)
    )
    loss = Logistic(beta=BETA)(branches(policy, supervision)).mean()
    loss.backward()
    return loss.detach(), policy.map(lambda x: x.grad)


def test_training_free_start() -> None:
    """At policy = reference, u = 0: loss log 2, winner gradient 0, loser gradient -(beta / 2 D) g / B.

    dL/de_lose = -sigma(-u) (beta / D) (d_lose - a_lose) / B with u = d = 0 and a_lose = -g.
    """
    win, lose, degraded = tensors(3)
    zero = torch.zeros_like(win)
    loss, grad = gradients(Pair(zero, zero.clone()), Supervision(Pair(win, lose), Pair(win, degraded)))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
    assert torch.equal(grad.win, zero)
    g = lose - degraded
    torch.testing.assert_close(grad.lose, -BETA / (2 * D) * g / B, rtol=1e-12, atol=1e-14)


def test_gradients_anywhere() -> None:
    """dL/de_win = sigma(-u) (beta / D) (d_win - a_win) / B, and the negative for losers."""
    win, lose, target, goal, d_win, d_lose = tensors(6)
    d = Pair(0.1 * d_win, 0.1 * d_lose)
    a = Pair(target - win, goal - lose)
    _, grad = gradients(d, Supervision(Pair(win, lose), Pair(target, goal)))
    slope = torch.sigmoid(-margin(d, a, BETA)).view(-1, 1, 1, 1) * BETA / D / B
    torch.testing.assert_close(grad.win, slope * (d.win - a.win), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(grad.lose, -slope * (d.lose - a.lose), rtol=1e-10, atol=1e-13)


def test_half_precision_predictions_are_subtracted_in_float32() -> None:
    """1 + 2^-7 and 2^-9 are numbers of bfloat16, and their difference 515 / 512 is none; squared, it is kept."""
    one = torch.ones(1, 4, dtype=torch.bfloat16)
    policy, reference = Pair(one + 2**-7, one + 2**-7), Pair(2**-9 * one, 2**-9 * one)
    seen = branches(policy, Supervision(reference, reference))
    assert health(seen, None, Needs())["win_displacement"].item() == 515**2 / 512**2
    assert Logistic(beta=1.0)(seen).dtype == torch.float32


def test_health_by_hand() -> None:
    """Four pairs of one element, beta 2: u = 2 d a - d^2 on winners minus the same on losers.

    d_win = 0 throughout; (d_lose, a_lose) = (1, -1), (0, -1), (-1, -1), (2, -1): R_lose = -3, 0, 1, -8, so u = 3, 0,
    -1, 8. Accuracy (1 + 1/2 + 0 + 1) / 4 = 5/8; cosines with -a_lose 1, 0, -1, 1; |d_lose|^2 = 1, 0, 1, 4.
    """
    zero = torch.zeros(4, 1)
    d, a = torch.tensor([[1.0], [0.0], [-1.0], [2.0]]), -torch.ones(4, 1)
    seen = Branches(Pair(zero, d), Pair(zero, a))
    log = health(seen, Logistic(beta=2.0).margin(seen), Needs())
    assert log["u_mean"].item() == pytest.approx(5 / 2)
    assert log["u_square"].item() == pytest.approx(74 / 4)
    assert log["accuracy"].item() == pytest.approx(5 / 8)
    assert log["cosine"].item() == pytest.approx(1 / 4)
    assert log["lose_displacement"].item() == pytest.approx(6 / 4)
    assert log["gap"].item() == 1
