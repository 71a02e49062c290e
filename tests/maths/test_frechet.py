"""The Frechet distance in closed form."""

import pytest
import torch

from ddspo.maths.frechet import frechet_distance


def test_frechet_of_a_set_with_itself_and_of_a_shift() -> None:
    """Equal covariances leave |shift|^2 = 3^2 + 4^2 = 25."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(25)


def test_frechet_of_two_scales() -> None:
    """Covariances C and 4 C of equal mean: tr(C + 4 C - 2 * 2 C) = tr(C)."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x - x.mean(0)
    assert frechet_distance(x, 2 * x) == pytest.approx(float(torch.cov(x.T).trace()))
