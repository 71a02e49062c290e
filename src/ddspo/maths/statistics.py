"""Means of scores, and how sure a difference is."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWN_AT_ONCE = 2**16
"""Prompts of bootstrap samples that are drawn at once: 1 MiB with their values, which a cache holds."""


def overall(tags: Sequence[str], scores: Sequence[float]) -> float:
    """Mean of the tag scores, each the mean over its samples."""
    return float(np.mean(list(by_tag(tags, scores).values())))


def by_tag(tags: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Mean score of each tag, in order of first appearance."""
    groups: dict[str, list[float]] = {}
    for tag, score in zip(tags, scores, strict=True):
        groups.setdefault(tag, []).append(score)
    return {tag: float(np.mean(values)) for tag, values in groups.items()}


def paired_bootstrap(
    differences_by_tag: Mapping[str, NDArray[np.float64]],
    samples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the overall difference, the mean of the tags' means.

    D* = 1/T sum_t 1/n_t sum_i d_t[r_ti], with r_ti drawn uniformly from the n_t prompts of tag t, anew in each sample;
    the interval is from the (1 - level)/2 to the (1 + level)/2 quantile of D*. Prompts are drawn, not images, because
    images of one prompt are not independent; within tags, because a set of prompts has fixed numbers of each.

    Args:
        differences_by_tag: For each tag, aligned - base of each prompt (mean over the prompt's images), [prompts].
        samples: Bootstrap samples.
        seed: Of the draws.
        level: Share of the samples inside the interval.

    Raises:
        ValueError: There is no tag, or a tag without prompts.
    """
    if not differences_by_tag or not all(len(values) for values in differences_by_tag.values()):
        raise ValueError("a bootstrap needs at least one tag, and a prompt in every tag")
    rng = np.random.default_rng(seed)
    means = [_resampled_means(np.asarray(values), samples, rng) for values in differences_by_tag.values()]
    low, high = np.quantile(np.mean(means, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def nested_bootstrap(
    seeds: Sequence[Mapping[str, NDArray[np.float64]]], samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a mean over runs, each of which has an overall difference over its own prompts.

    In each sample runs are drawn with replacement, and prompts within the tags of every drawn run: the interval holds
    for other seeds and for other prompts. Of one run it is that of `paired_bootstrap`.

    Args:
        seeds: Of each run, for each tag, the difference of each prompt, [prompts].
        samples: Bootstrap samples.
        seed: Of the draws.
        level: Share of the samples inside the interval.

    Raises:
        ValueError: There is no run, or one without tags or with an empty one.
    """
    if not seeds or not all(run and all(len(values) for values in run.values()) for run in seeds):
        raise ValueError("a bootstrap needs at least one run, with a prompt in every tag")
    rng = np.random.default_rng(seed)
    # Where a run is drawn twice, its prompts are drawn twice: as many independent means as there are places.
    drawn = rng.integers(len(seeds), size=(samples, len(seeds)))
    means = np.empty(drawn.shape)
    for place in range(len(seeds)):
        every = np.stack([np.mean([_resampled_means(v, samples, rng) for v in run.values()], axis=0) for run in seeds])
        means[:, place] = every[drawn[:, place], np.arange(samples)]
    low, high = np.quantile(means.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(differences_by_tag: Mapping[str, NDArray[np.float64]], samples: int = 10_000, seed: int = 0) -> float:
    """One-sided p of an overall difference above zero, the mean of the tags' means, by random signs.

    p = (1 + #{s: D_s >= D}) / (1 + samples), with D_s = 1/T sum_t 1/n_t sum_i s_ti d_ti and every s_ti = -1 or 1
    alike: were both sides as good, each difference could as well have the other sign. Of n prompts that differ p is
    about 2^-n at least, so that few prompts show nothing.

    Args:
        differences_by_tag: For each tag, the difference of each prompt, [prompts].
        samples: Draws of all signs.
        seed: Of the draws.

    Source: Fisher, The design of experiments, 1935, section 21.
    """
    terms = np.concatenate([values / len(values) for values in differences_by_tag.values()])
    rng, at_once = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // len(terms))
    counts = [min(at_once, samples - first) for first in range(0, samples, at_once)]
    flipped = np.concatenate([rng.choice([-1.0, 1.0], size=(count, len(terms))) @ terms for count in counts])
    # Sums of the same terms in another order differ by rounding.
    return float((1 + (flipped >= terms.sum() - 1e-12).sum()) / (1 + samples))


def wilson_interval(rate: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a win rate: the pi that |rate - pi| <= z sqrt(pi (1 - pi) / count) does not refute.

    (rate + z^2 / 2n ± z sqrt(rate (1 - rate) / n + z^2 / 4n^2)) / (1 + z^2 / n), with z the (1 + level)/2 quantile of
    the normal distribution and n the count. Meant for outcomes of 0 and 1; for any others in [0, 1], such as ties that
    count half or a prompt's mean over several images, it errs on the wide side, because of all variables in [0, 1] of
    one mean those have the largest variance. It has a width even where all outcomes agree, which a bootstrap has not.

    Args:
        rate: Mean outcome, in [0, 1].
        count: Independent outcomes, at least 1.
        level: Confidence.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle, half = rate + z**2 / (2 * count), z * sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _resampled_means(values: NDArray[np.float64], samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Some samples at a time, which draws the same numbers as all at once."""
    at_once = max(1, DRAWN_AT_ONCE // len(values))
    counts = [min(at_once, samples - first) for first in range(0, samples, at_once)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in counts])
