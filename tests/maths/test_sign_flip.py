"""How probable a lead is if both sides are alike, and which scales it leaves."""

import numpy as np
import pytest

from ddspo.judging.scales import Scored, best, can_show, may_be_best
from ddspo.maths.statistics import sign_flip


def test_a_probability_by_hand() -> None:
    """Three prompts that agree: of eight choices of signs one is as far.

    One that disagrees: those with one minus at most, four. Equal sides: always. Of 10 000 draws 0.02 is four standard
    deviations.
    """
    found = [sign_flip({"a": np.array(values)}) for values in ([1.0, 1, 1], [1.0, 1, -1], [0.0, 0, 0], [-1.0, -1, -1])]
    assert found == pytest.approx([1 / 8, 4 / 8, 1, 1], abs=0.02)


def test_tags_weigh_alike() -> None:
    """Tags of two prompts and of one have terms 1/2, 1/2 and 1. All ahead: D is reached by all pluses alone, 1/8.

    The two behind: their terms sum to 0, which five of eight choices reach; unweighed they would sum to -1, which
    seven reach.
    """
    both, one = np.array([1.0, 1.0]), np.array([1.0])
    assert sign_flip({"a": both, "b": one}) == pytest.approx(1 / 8, abs=0.02)
    assert sign_flip({"a": -both, "b": one}) == pytest.approx(5 / 8, abs=0.02)


def scored(**scales: list[float]) -> Scored:
    return {float(name[1:]): (["a"] * len(values), values) for name, values in scales.items()}


def test_a_scale_that_is_worse_at_every_prompt_is_given_up() -> None:
    """Ten prompts that agree have p = 2^-10, twice as much for two others; three prompts 1/8, which shows nothing."""
    ten, three = [[value] * 10 for value in (0.0, 1.0)], [[value] * 3 for value in (0.0, 1.0)]
    assert may_be_best(scored(s1=ten[0], s2=ten[1], s3=ten[1]), 0.05) == {2.0, 3.0}
    assert may_be_best(scored(s1=three[0], s2=three[1], s3=three[1]), 0.05) == {1.0, 2.0, 3.0}


def test_of_many_scales_each_has_its_part_of_the_error() -> None:
    """Five prompts that agree, p = 1/32: less than .05 once, and not with two others."""
    low, high = [0.0] * 5, [1.0] * 5
    assert may_be_best(scored(s1=low, s2=high), 0.05) == {2.0}
    assert [can_show(5, 2, 0.05), can_show(5, 3, 0.05), can_show(6, 3, 0.05), can_show(99, 2, 0)] == [1, 0, 1, 0]
    assert may_be_best(scored(s1=low, s2=high, s3=high), 0.05) == {1.0, 2.0, 3.0}


def test_of_equal_scores_the_smallest_scale_leads() -> None:
    assert best({3.0: 0.5, 2.0: 0.5, 1.0: 0.4}) == 2.0


def test_the_best_scale_is_seldom_given_up() -> None:
    """Twelve prompts and four scales that are alike but for noise: the first of them is as good as any.

    It is given up in at most 5 % of 400 draws: 20, and 33 with three standard deviations of sqrt(400 x .05 x .95).
    """
    rng = np.random.default_rng(0)
    draws = [
        scored(**{f"s{k}": rng.integers(0, 2, 12).astype(float).tolist() for k in range(1, 5)}) for _ in range(400)
    ]
    lost = sum(1.0 not in may_be_best(each, 0.05) for each in draws)
    assert lost <= 33
