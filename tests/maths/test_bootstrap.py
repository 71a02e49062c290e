"""The interval of an overall difference against distributions known by hand."""

import tracemalloc
from math import erf, sqrt

import numpy as np
import pytest

from ddspo.maths.statistics import nested_bootstrap, paired_bootstrap, wilson_interval


def test_constant_differences_leave_no_doubt() -> None:
    """Every resample of n equal values c has mean c, so each tag's mean is always its constant.

    Overall (0.25 + 0.75) / 2 = 0.5: each tag counts once, though the second has twice as many prompts.
    """
    interval = paired_bootstrap({"colors": np.full(3, 0.25), "counting": np.full(6, 0.75)})
    assert interval == pytest.approx((0.5, 0.5))


def test_two_prompts_of_one_tag() -> None:
    """Two draws from {0, 1} give means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.

    The 95 % interval cuts 2.5 % from each end, less than 1/4, so it is [0, 1]; the 40 % one cuts 30 %, more than 1/4
    and less than 3/4, so both its ends are 1/2.
    """
    values = {"colors": np.array([0.0, 1.0])}
    assert paired_bootstrap(values) == (0.0, 1.0)
    assert paired_bootstrap(values, level=0.4) == (0.5, 0.5)


def test_prompts_are_drawn_within_their_tag() -> None:
    """Drawn within tags {0, 0} and {1, 1} every sample has mean (0 + 1) / 2; drawn from all four it would vary."""
    assert paired_bootstrap({"a": np.zeros(2), "b": np.ones(2)}) == (0.5, 0.5)


def test_two_tags_are_averaged() -> None:
    """Two independent tags {0, 1}: their mean is 0 with chance 1/16 > 2.5 %, and 1 likewise, so [0, 1].

    At level 0.8 each end cuts 10 %: more than 1/16, less than 1/16 + 2 (1/4)(1/2) = 5/16, so [1/4, 3/4].
    """
    values = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 1.0])}
    assert paired_bootstrap(values) == (0.0, 1.0)
    assert paired_bootstrap(values, level=0.8) == (0.25, 0.75)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 intervals over 40 normal prompts in each of two tags, all but about 5 % (sd 1.5 %) hold the mean 0.3."""
    rng = np.random.default_rng(1)
    intervals = [
        paired_bootstrap({tag: rng.normal(0.3, 1.0, 40) for tag in "ab"}, samples=500, seed=trial)
        for trial in range(200)
    ]
    share = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.89 <= share <= 0.99


def test_width_is_that_of_the_normal_approximation() -> None:
    """One tag of n = 400 standardised values: the mean's deviation is 1/20, so the interval is ± 1.96 / 20 = 0.098."""
    values = np.random.default_rng(2).normal(size=400)
    values = (values - values.mean()) / values.std()
    assert paired_bootstrap({"a": values}) == pytest.approx((-0.098, 0.098), abs=0.005)


def test_the_seed_decides() -> None:
    values = {"a": np.random.default_rng(3).normal(size=30)}
    assert paired_bootstrap(values, seed=5) == paired_bootstrap(values, seed=5)
    assert paired_bootstrap(values, seed=5) != paired_bootstrap(values, seed=6)


@pytest.mark.parametrize("differences", [{}, {"a": np.zeros(0)}, {"a": np.zeros(2), "b": np.zeros(0)}])
def test_nothing_to_draw_from_is_an_error(differences: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least one tag"):
        paired_bootstrap(differences)


def test_wilson_interval_at_its_ends_and_in_the_middle() -> None:
    """From (p - pi)^2 = z^2 pi (1 - pi) / n, with p = 1: (1 - pi) = z^2 pi / n, or pi = 1: from n / (n + z^2) to 1.

    With p = 1/2 the roots lie evenly around 1/2, and (pi - 1/2)^2 (1 + z^2 / n) = z^2 / 4n: half width
    z / (2 sqrt(n + z^2)). z = 1 where the level is that of one standard deviation, 0.6827.
    """
    one = erf(1 / sqrt(2))
    assert wilson_interval(1.0, 4, one) == pytest.approx((4 / 5, 1.0))
    assert wilson_interval(0.0, 4, one) == pytest.approx((0.0, 1 / 5))
    assert wilson_interval(0.5, 8, one) == pytest.approx((1 / 2 - 1 / 6, 1 / 2 + 1 / 6))
    low, high = wilson_interval(0.7, 20)
    for pi in (low, high):
        assert (0.7 - pi) ** 2 == pytest.approx(1.959964**2 * pi * (1 - pi) / 20, rel=1e-6)
    assert low < 0.7 < high


def test_wilson_interval_covers_ties_and_means_of_images() -> None:
    """Of 2000 sets of 30 outcomes in {0, 1/2, 1} with chances 0.2, 0.5, 0.3, mean 0.55, at least 95 % are covered."""
    rates = np.random.default_rng(0).choice([0, 0.5, 1], p=[0.2, 0.5, 0.3], size=(2000, 30)).mean(axis=1)
    covered = [low <= 0.55 <= high for low, high in (wilson_interval(rate, 30) for rate in rates)]
    assert np.mean(covered) >= 0.95


def test_many_prompts_take_little_memory_and_draw_what_all_at_once_would() -> None:
    """4000 prompts in 200 samples: 200 x 4000 indices of 8 bytes are 6.4 MB, and their values as much again."""
    values = np.random.default_rng(4).normal(size=4000)
    tracemalloc.start()
    interval = paired_bootstrap({"a": values}, samples=200, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5e6
    means = values[np.random.default_rng(1).integers(4000, size=(200, 4000))].mean(axis=1)
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), rel=1e-12)


def test_runs_are_drawn_too() -> None:
    """Two runs of +.1 and -.1 without any doubt of their own: the mean of two drawn is -.1, 0 or .1.

    With probabilities 1/4, 1/2 and 1/4, so that the interval is from end to end, and a narrower one of 40 % is (0, 0).
    """
    runs = [{"a": np.full(5, 0.1), "b": np.full(3, 0.1)}, {"a": np.full(5, -0.1), "b": np.full(3, -0.1)}]
    assert nested_bootstrap(runs) == pytest.approx((-0.1, 0.1))
    assert nested_bootstrap(runs, level=0.4) == pytest.approx((0, 0))


def test_prompts_are_drawn_anew_in_every_run_that_is_drawn() -> None:
    """Four equal runs of two prompts, 0 and 1: a mean of 8 draws, of standard deviation 1 / (2 sqrt 8) = .177.

    Were the prompts of a run that is drawn twice the same both times, it would be larger: a run is drawn k times of 4
    with E k^2 = 1 + 3/4, so that the variance would be 7/4 of it. 95 % of the sample means are within about .35.
    """
    low, high = nested_bootstrap([{"a": np.array([0.0, 1.0])}] * 4, samples=40_000)
    assert (low, high) == pytest.approx((0.5 - 3 / 8, 0.5 + 3 / 8), abs=0.01)


def test_one_run_is_a_paired_bootstrap() -> None:
    values = {"a": np.random.default_rng(0).normal(0.2, 1, 60), "b": np.random.default_rng(1).normal(0, 1, 40)}
    assert nested_bootstrap([values]) == pytest.approx(paired_bootstrap(values), abs=0.01)


@pytest.mark.parametrize("runs", [[], [{}], [{"a": np.array([1.0])}, {"a": np.array([])}]])
def test_runs_without_prompts_are_an_error(runs: list[dict[str, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        nested_bootstrap(runs)
