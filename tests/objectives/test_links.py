"""Objectives that are functions of the margin: values, slopes and limits by hand, and published forms written out."""

import math
from collections.abc import Callable

import pytest
import torch
from branches import by_hand, gradients, predictions
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddspo.maths.pair import Pair
from ddspo.objectives.base import Link
from ddspo.objectives.dmpo import DMPO
from ddspo.objectives.hinge import Hinge
from ddspo.objectives.ipo import IPO
from ddspo.objectives.linear import Linear
from ddspo.objectives.logistic import Logistic

LOG3 = math.log(3)


@pytest.mark.parametrize(
    ("link", "u", "value", "slope"),
    [
        # softplus(-u), slope -sigma(-u); sigma(-log 3) = 1 / (1 + 3)
        (Logistic(), 0.0, math.log(2), -1 / 2),
        (Logistic(), LOG3, math.log(4 / 3), -1 / 4),
        (Logistic(), -1e4, 1e4, -1.0),
        (Logistic(), 1e4, 0.0, 0.0),
        # (u - 1/2)^2, slope 2 u - 1
        (IPO(), 0.0, 1 / 4, -1.0),
        (IPO(), 0.5, 0.0, 0.0),
        (IPO(), 3.0, 25 / 4, 5.0),
        (IPO(), -3.0, 49 / 4, -7.0),
        # max(0, 1 - u)
        (Hinge(), 0.0, 1.0, -1.0),
        (Hinge(), -2.0, 3.0, -1.0),
        (Hinge(), 1.5, 0.0, 0.0),
        # p log(p / .9) + (1 - p) log((1 - p) / .1), slope p (1 - p) (u - log 9), log 9 = 2 log 3
        (DMPO(alpha=0.1), 0.0, math.log(0.5 / 0.9) / 2 + math.log(0.5 / 0.1) / 2, -LOG3 / 2),
        (DMPO(alpha=0.1), LOG3, 0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1), -LOG3 * 3 / 16),
        (DMPO(alpha=0.1), 2 * LOG3, 0.0, 0.0),
        (DMPO(alpha=0.1), -1e4, math.log(10), 0.0),
        (DMPO(alpha=0.1), 1e4, math.log(10 / 9), 0.0),
        # w u, -(2 / beta) = -1, with w = 1/2 - (2/5) u from .001 to .999 and no slope of its own
        (Linear(beta=2), 0.0, 0.0, -1 / 2),
        (Linear(beta=2), 0.5, -0.15, -0.3),
        (Linear(beta=2), -0.5, 0.35, -0.7),
        (Linear(beta=2), 10.0, -0.01, -0.001),
        (Linear(beta=2), -10.0, 9.99, -0.999),
        (Linear(beta=2, eta=0), 10.0, 0.0, 0.0),
    ],
)
def test_value_and_slope(link: Link, u: float, value: float, slope: float) -> None:
    """As the comments derive them. Linear's slope would be -1/2 + (4/5) u if its weight were differentiated."""
    margin = torch.tensor([u], dtype=torch.float64, requires_grad=True)
    loss = link.link(margin)
    (found,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.item() == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert found.item() == pytest.approx(slope, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("link", "slope"),
    [(Logistic(2), -1 / (1 + math.e**3)), (IPO(2), 5.0), (Hinge(2), 0.0), (Linear(2), -0.001)],
)
def test_the_chain_from_predictions(link: Link, slope: float) -> None:
    """One element, beta 2: R = 2 d a - d^2, so (d, a) = (1, 2) and (2, 1) have R = 3 and 0, and u = 3.

    du/dd_win = beta (a_win - d_win) = 2 and du/dd_lose = -beta (a_lose - d_lose) = 2; the slope of each link at 3 is
    -sigma(-3), 2 * 3 - 1, 0, and Linear's least weight, .001, times -2 / beta.
    """
    seen = by_hand([[1]], [[2]], [[2]], [[1]])
    assert link.margin(seen).item() == 3
    found = gradients(link, seen)
    assert (found.win.item(), found.lose.item()) == pytest.approx((2 * slope, 2 * slope), rel=1e-12)


def test_dmpo_begins_faster_than_logistic_and_gives_up() -> None:
    """At u = 0, log((1 - .01) / .01) / 4 = 1.149 against 1/2; at -12 below 1e-3, where that is 1."""
    u = torch.tensor([0.0, -12.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(DMPO().link(u).sum(), u)
    assert slopes[0].item() == pytest.approx(-math.log(99) / 4)
    assert -1e-3 < slopes[1].item() < 0


@pytest.mark.parametrize("u", [-1e30, -1e4, -104.0, 104.0, 1e4, 1e30])
def test_dmpo_is_finite_in_single_precision(u: float) -> None:
    margin = torch.tensor([u], requires_grad=True)
    loss = DMPO().link(margin)
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.item() == pytest.approx(-math.log(0.01) if u < 0 else -math.log(0.99), abs=1e-6)
    assert slope.item() == 0


PUBLISHED = 3.0
"""The published beta: with errors of about one, margins of about one."""

Published = Callable[[Tensor, Tensor], Tensor]
"""A loss of L_w - L_l of the policy and of the reference."""


def diffusion_dpo(model: Tensor, reference: Tensor) -> Tensor:
    """-log sigma(-(beta / 2) (model - reference))."""
    return -logsigmoid(-0.5 * PUBLISHED * (model - reference))


def logistic_of_diffusers(model: Tensor, reference: Tensor) -> Tensor:
    """-log sigma(beta logits), logits = reference - model."""
    return -logsigmoid(PUBLISHED * (reference - model))


def hinge_of_diffusers(model: Tensor, reference: Tensor) -> Tensor:
    """max(0, 1 - beta logits)."""
    return torch.relu(1 - PUBLISHED * (reference - model))


def ipo_of_diffusers(model: Tensor, reference: Tensor) -> Tensor:
    """(logits - 1 / (2 beta))^2, times beta^2, which is how much larger ours is."""
    return (reference - model - 1 / (2 * PUBLISHED)) ** 2 * PUBLISHED**2


def dmpo(model: Tensor, reference: Tensor) -> Tensor:
    """KL(Bernoulli(p) || Bernoulli(.99)), p = sigma(-(beta / 2) (model - reference))."""
    p = torch.sigmoid(-0.5 * PUBLISHED * (model - reference))
    wanted = torch.tensor(0.99, dtype=p.dtype)
    return torch.distributions.kl_divergence(torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(wanted))


def linear_dpo(model: Tensor, reference: Tensor) -> Tensor:
    """W (L_w - L_l), w = clamp(1/2 + .2 beta (model - reference), eta, 1 - eta); less w times the reference's."""
    weight = (0.5 + 0.2 * PUBLISHED * (model - reference)).clamp(1e-3, 1 - 1e-3).detach()
    return weight * model - weight * reference


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (diffusion_dpo, Logistic(PUBLISHED)),
        (logistic_of_diffusers, Logistic(2 * PUBLISHED)),
        (hinge_of_diffusers, Hinge(2 * PUBLISHED)),
        (ipo_of_diffusers, IPO(2 * PUBLISHED)),
        (dmpo, DMPO(PUBLISHED)),
        (linear_dpo, Linear(PUBLISHED)),
    ],
)
def test_published_forms(published: Published, ours: Link) -> None:
    """The published formula with the published beta and ours with the converted one: same losses, same gradients."""
    policy, (reference, target), seen = predictions(pairs=6)
    assert reference is not None
    theirs = published(difference(policy, target), difference(reference, target))
    torch.testing.assert_close(ours(seen), theirs, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(theirs.sum(), list(policy))
    for found, wanted in zip(gradients(ours, seen), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def difference(of: Pair[Tensor], target: Pair[Tensor]) -> Tensor:
    """L_w - L_l, errors being means over dimensions."""
    return (of.win - target.win).square().mean((1, 2)) - (of.lose - target.lose).square().mean((1, 2))
