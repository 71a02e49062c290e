"""The bootstrap where its distribution is known, and the Frechet distance in closed form."""

import numpy as np
import pytest
import torch

from ddspo.maths.frechet import frechet_distance
from ddspo.maths.statistics import paired_bootstrap


def test_a_constant_difference_is_certain() -> None:
    assert paired_bootstrap({"a": np.full(7, 0.25), "b": np.full(3, 0.25)}) == (0.25, 0.25)


def test_two_prompts() -> None:
    """Of the values 0 and 1 the mean of a resample is 0, 1/2, 1 with probability 1/4, 1/2, 1/4: all of [0, 1]."""
    assert paired_bootstrap({"a": np.array([0.0, 1.0])}) == (0.0, 1.0)


def test_tags_weigh_the_same() -> None:
    """Tags of 1000 and of 1 prompts, both constant: the mean of the tag means is (0 + 1) / 2."""
    assert paired_bootstrap({"a": np.zeros(1000), "b": np.ones(1)}) == (0.5, 0.5)


def test_normal_data_is_covered_as_the_textbook_says() -> None:
    """The mean of n normal values has standard error s / sqrt(n): the interval is mean -+ 1.96 s / sqrt(n)."""
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    low, high = paired_bootstrap({"a": values})
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.012)


def test_an_empty_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="tag"):
        paired_bootstrap({"a": np.zeros(0)})


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
