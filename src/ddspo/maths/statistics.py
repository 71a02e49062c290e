"""How sure a difference is."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


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


def _resampled_means(values: NDArray[np.float64], samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return values[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
