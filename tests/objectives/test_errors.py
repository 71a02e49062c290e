"""Objectives that read more than the margin: values, gradients and limits by hand, and published forms written out."""

import math
from dataclasses import replace

import pytest
import torch
from branches import at_random, by_hand, gradients, predictions
from torch.nn.functional import logsigmoid

from ddspo.maths.pair import Pair
from ddspo.objectives.base import Branches
from ddspo.objectives.dspo import DSPO
from ddspo.objectives.dspo_sdxl import DSPOSDXL
from ddspo.objectives.mapo import MaPO
from ddspo.objectives.regression import Regression
from ddspo.objectives.sft import SFT


def check(objective, seen: Branches, loss: float, win: float, lose: float) -> None:
    found = gradients(objective, seen)
    assert objective(seen).item() == pytest.approx(loss, rel=1e-9)
    assert (found.win.item(), found.lose.item()) == pytest.approx((win, lose), rel=1e-9, abs=1e-12)


def test_sft() -> None:
    """e = d - a = (1, 2) - (0, 5) = (1, -3): |e|^2 = 10 / 2, gradient 2 e / 2; the loser has none."""
    seen = by_hand([[1, 2]], [[0, 5]], [[7, 7]], [[8, 8]])
    assert SFT()(seen).item() == 5
    found = gradients(SFT(), seen)
    assert found.win.tolist() == [[1, -3]]
    assert found.lose.tolist() == [[0, 0]]


def test_dspo_differentiates_sigma() -> None:
    """One element, beta 2, (d, a) = (1, 2) on both sides: u = 0, p = 1 - sigma(u) = 1/2, r = e - 2 p d = -1 - 1 = -2.

    dp/du = -1/4; du/dd = beta (a - d) = 2 for the winner and -2 for the loser. dr/dd_win = 1 - 2 p - 2 d dp/du 2 =
    1 - 1 + 1 = 1 and dr/dd_lose = -2 d dp/du (-2) = -1. So the loss r^2 = 4 has gradients 2 r dr = -4 and 4; with
    sigma held fixed both would be 0.
    """
    check(DSPO(beta=2), by_hand([[1]], [[2]], [[1]], [[2]]), 4, -4, 4)


@pytest.mark.parametrize("beta", [0.001, 1.0, 2.0, 5.0])
def test_dspo_starts_as_a_part_of_plain_fine_tuning(beta: float) -> None:
    """At d = 0, u = 0 and d(r)/d(d) = 1 - beta / 2: that share of SFT's gradient, and none on losers."""
    seen = start(at_random())
    ours, plain = gradients(DSPO(beta), seen), gradients(SFT(), seen)
    torch.testing.assert_close(ours.win, (1 - beta / 2) * plain.win, rtol=1e-14, atol=1e-16)
    assert not ours.lose.any()


def test_dspo_has_nothing_to_learn_where_the_winner_is_the_reference() -> None:
    """a_win = 0: the loss |(1 - beta (1 - sigma(u))) d_win|^2 and its gradient are 0 at d = 0."""
    seen = start(at_random())
    still = replace(seen, a=Pair(torch.zeros_like(seen.a.win), seen.a.lose))
    assert not DSPO()(still).any()
    assert not any(each.any() for each in gradients(DSPO(), still))


def start(seen: Branches) -> Branches:
    return replace(seen, d=seen.d.map(lambda x: torch.zeros_like(x).requires_grad_()))


def test_published_dspo() -> None:
    """mean |(e_theta - eps) - beta (1 - sigma(u)) (e_theta - e_ref)|^2, u = -(beta / 2)(differences of errors)."""
    policy, (reference, target), seen = predictions(pairs=4)
    assert reference is not None
    beta, errors = (
        3.0,
        [[(x - y).square().mean((1, 2)) for x, y in zip(each, target, strict=True)] for each in (policy, reference)],
    )
    u = -0.5 * beta * ((errors[0][0] - errors[0][1]) - (errors[1][0] - errors[1][1]))
    push = beta * (1 - u.sigmoid())[:, None, None]
    theirs = ((policy.win - target.win) - push * (policy.win - reference.win)).square().mean((1, 2))
    torch.testing.assert_close(DSPO(beta)(seen), theirs, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(theirs.sum(), list(policy))
    for found, wanted in zip(gradients(DSPO(beta), seen), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("mean", "loss", "win", "lose"), [(0.0999, 1 / 4, 1 / 2, 1 / 2), (0.1, 9 / 4, 6, 9 / 2), (7.0, 9 / 4, 6, 9 / 2)]
)
def test_dspo_sdxl(mean: float, loss: float, win: float, lose: float) -> None:
    """One element, beta 2: (d, a) = (3, 2) and (1, 2) both have R = 2 d a - d^2 = 3, so u = 0 and p = 1/2.

    p^2 = 1/4; its derivative by u is 2 p (-1/4) = -1/4; du/dd = beta (a - d) = -2 for the winner and -2 for the loser
    (the negative of 2): both gradients are 1/2. The second form is times d_win^2 = 9, and the winner has
    p^2 2 d_win = 3/2 more. The mean of the whole update decides, not the |d_win|^2 of the pair.
    """
    seen = replace(by_hand([[3]], [[2]], [[1]], [[2]]), mean=torch.tensor(mean, dtype=torch.float64))
    assert DSPOSDXL().averaged(seen).item() == 9
    check(DSPOSDXL(beta=2), seen, loss, win, lose)


def test_mapo() -> None:
    """snr 1, scale 2: L_win = log 2 has f = log 2 / (2 - 1), L_lose = log 3 has f = log 3 / (3 - 1).

    x = 2 (log 2 - log 3 / 2) = log(4 / 3), so softplus(-x) = log(1 + 3/4) and sigma(-x) = 3 / 7. f'(L) = 1 / (e^L - 1)
    - L e^L / (e^L - 1)^2, which is 1 - 2 log 2 and 1/2 - 3/4 log 3. dL/de = 2 e.
    """
    win, lose = math.log(2), math.log(3)
    seen = by_hand([[math.sqrt(win)]], [[0]], [[-math.sqrt(lose)]], [[0]])
    slope_win, slope_lose = 1 - 2 * win, 0.5 - 0.75 * lose
    pull, push = 1 - 0.1 * 2 * 3 / 7 * slope_win, 0.1 * 2 * 3 / 7 * slope_lose
    expected = (win + 0.1 * math.log(7 / 4), 2 * math.sqrt(win) * pull, -2 * math.sqrt(lose) * push)
    check(MaPO(weight=0.1, snr=1, scale=2), seen, *expected)


def test_mapo_of_small_errors() -> None:
    """f' = -s / 2: 1 + .1 sigma(0) 1000 / 4 = 13.5 times dL_win and -12.5 times dL_lose, dL = 2 e; at 0, finite.

    Those are the gradients of |e_win|^2 and of .1 times a logistic loss of beta = s T = 500 without a reference.
    """
    check(MaPO(), by_hand([[1e-5]], [[0]], [[1e-5]], [[0]]), 0.1 * math.log(2) + 1e-10, 27e-5, -25e-5)
    check(MaPO(), by_hand([[0]], [[0]], [[0]], [[0]]), 0.1 * math.log(2), 0, 0)


def test_mapo_where_its_series_ends() -> None:
    """At s L = .01 either side of it: the same value and slope to seven digits."""
    below, above = (by_hand([[math.sqrt(0.02 * x)]], [[0]], [[0]], [[0]]) for x in (1 - 1e-12, 1 + 1e-12))
    slopes = [gradients(MaPO(), each).win.item() for each in (below, above)]
    assert MaPO()(below).item() == pytest.approx(MaPO()(above).item(), rel=1e-7)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-7)


def test_published_mapo() -> None:
    """L_w - beta log sigma(T (f(L_w) - f(L_l))), f(L) = s L / (exp(s L) - 1); where the reference is makes no odds."""
    policy, supervision, seen = predictions(pairs=4)
    win, lose = ((x - y).square().mean((1, 2)) for x, y in zip(policy, supervision.target, strict=True))

    def likelihood(error: torch.Tensor) -> torch.Tensor:
        return 0.5 * error / (torch.exp(0.5 * error) - 1)

    theirs = win - 0.1 * logsigmoid(1000 * (likelihood(win) - likelihood(lose)))
    torch.testing.assert_close(MaPO()(seen), theirs, rtol=1e-10, atol=1e-12)


def test_regression() -> None:
    """One element, beta 2: u = 3 (R = 3 and 0), du/dd = 2 on both sides. A gap of 1/2 times 2 wants 1.

    (3 - 1)^2 = 4, gradients 2 (3 - 1) 2 = 8; a gap of -1/2 wants -1: 16, and 2 (3 + 1) 2 = 16.
    """
    seen = by_hand([[1]], [[2]], [[2]], [[1]])
    for gap, loss, slope in ((0.5, 4, 8), (-0.5, 16, 16)):
        given = replace(seen, gap=torch.tensor([gap], dtype=torch.float64))
        check(Regression(beta=2, scale=2), given, loss, slope, slope)
