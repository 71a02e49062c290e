"""How sure a difference is."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def paired_bootstrap(
    differences: Mapping[str, NDArray[np.float64]], *, samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over tags of the mean over prompts of a paired difference.

    Prompts are drawn with replacement within each tag, because the score is the mean of the tag scores.

    Args:
        differences: For each tag, aligned - base of each prompt (mean over the prompt's images), [prompts].
        samples: Bootstrap samples.
        level: Share of the samples inside the interval.
        seed: Of the draws.

    Raises:
        ValueError: There is no tag, or a tag without prompts.
    """
    if not differences or not all(len(values) for values in differences.values()):
        raise ValueError("a bootstrap needs at least one tag, and a prompt in every tag")
    rng = np.random.default_rng(seed)
    means = [
        np.asarray(values)[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
        for values in differences.values()
    ]
    low, high = np.quantile(np.mean(means, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
