"""Quantiles and distribution functions of the densities of timesteps, and the schedules, by hand."""

import math

import pytest
import torch

from ddspo.maths.quantiles import linear, logit_normal, sigmoid
from ddspo.schedules.constant import Constant
from ddspo.schedules.exponential import Exponential
from ddspo.schedules.linear import Linear
from ddspo.schedules.sigmoid import Sigmoid

U = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_linear_by_hand() -> None:
    """F(tau) = 1 - (1 - tau)^2: a quarter of the mass of 3/4 lies below 1/2, so u = 3/4 gives 1/2; 0.36 gives 0.2."""
    torch.testing.assert_close(linear(of(0, 0.36, 0.75)), of(0, 0.2, 0.5))


def test_logit_normal_by_hand() -> None:
    """Phi(1) = 0.8413447460685429, so with mean 0, std 1 that u gives sigmoid(1) = 0.7310585786300049.

    The median is sigmoid(mean): sigmoid(-2) = 0.11920292202211755 for any std.
    """
    torch.testing.assert_close(logit_normal(of(0.5, 0.8413447460685429), 0.0, 1.0), of(0.5, 0.7310585786300049))
    assert logit_normal(of(0.5), -2.0, 3.0).item() == pytest.approx(0.11920292202211755)


def test_sigmoid_by_hand() -> None:
    """k = 1, c = 0: F(tau) = (log(1 + e^tau) - log 2) / (log(1 + e) - log 2).

    At tau = log 2 the numerator is log(3/2), so u = log(1.5) / log((1 + e) / 2) gives tau = log 2.
    """
    u = math.log(1.5) / math.log((1 + math.e) / 2)
    assert sigmoid(of(u), 1.0, 0.0).item() == pytest.approx(math.log(2), abs=1e-14)


def test_sigmoid_of_the_paper() -> None:
    """k = 20, c = 0.7: S(6) = 6.0024757, S(0) = log 2 = 0.6931472, S(-14) = 8.3e-7.

    Of the mass 6.0024757, log 2 lies below the centre: F(0.7) = 0.1154768.
    """
    assert sigmoid(of(0.1154768), 20.0, 0.7).item() == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("inverse", "density"),
    [
        (linear, lambda x: 2 * (1 - x)),
        (lambda u: sigmoid(u, 20.0, 0.7), lambda x: torch.sigmoid(20 * (x - 0.7)) * 20 / 6.002475),
        (
            lambda u: logit_normal(u, 0.5, 0.8),
            lambda x: (
                torch.exp(-((torch.logit(x) - 0.5) ** 2) / (2 * 0.64)) / (0.8 * math.sqrt(2 * math.pi) * x * (1 - x))
            ),
        ),
    ],
    ids=["linear", "sigmoid", "logit_normal"],
)
def test_the_density_is_the_one_named(inverse, density) -> None:  # type: ignore[no-untyped-def]
    """dtau/du = 1 / p(tau): the slope of the inverse distribution function is the inverse density."""
    u = torch.linspace(0.05, 0.9, 50, dtype=torch.float64)
    slope = (inverse(u + 1e-6) - inverse(u - 1e-6)) / 2e-6
    torch.testing.assert_close(slope * density(inverse(u)), torch.ones_like(u), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inverse",
    [linear, lambda u: sigmoid(u, 20.0, 0.7), lambda u: logit_normal(u, 0.0, 1.0), lambda u: sigmoid(u, 1e4, 0.3)],
)
def test_places_rise_within_the_path(inverse) -> None:  # type: ignore[no-untyped-def]
    last = of(1 - 2**-53)
    places = inverse(torch.cat([U, last]))
    assert (places[1:] >= places[:-1]).all()
    assert places[0] >= 0
    assert places[-1] < 1
    assert places.dtype == torch.float64
    assert inverse(last).item() > 0.99


def test_a_wide_logit_normal_stays_below_one() -> None:
    assert logit_normal(of(0.0, 1 - 2**-53), 0.0, 50.0).tolist() == [0.0, 1 - 2**-53]


def test_schedules_by_hand() -> None:
    """sigmoid: sigmoid(20 (0.85 - 0.7)) = sigmoid(3) = 0.9525741268; exponential: exp(-5 (1 - 0.8)) = 1 / e.

    The authors' omega = 1 / (1 + exp(1.5 - lambda)) with lambda = -15 + 20 t / T is a sigmoid of slope 20 around
    16.5 / 20 = 0.825.
    """
    assert Sigmoid()(of(0.7, 0.85)).tolist() == pytest.approx([0.5, 0.9525741268224334])
    assert Exponential()(of(1.0, 0.8)).tolist() == pytest.approx([1.0, 1 / math.e])
    assert Linear()(of(0.25)).tolist() == [0.25]
    assert Constant()(of(0.1, 0.9)).tolist() == [1.0, 1.0]
    place = torch.linspace(0, 1, 11, dtype=torch.float64)
    theirs = 1 / (1 + torch.exp(1.5 - (-15 + 20 * place)))
    torch.testing.assert_close(Sigmoid(slope=20, centre=0.825)(place), theirs)
