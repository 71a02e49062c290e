"""Means over all pairs of images that one prompt has."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from ddspo.errors import InputError

T = TypeVar("T")


def mean_within(items: Sequence[str], values: Iterable[T], distance: Callable[[T, T], float], metric: str) -> float:
    """The mean distance between two values of one item, each pair counted once.

    Args:
        items: Whose each value is.
        values: What is compared.
        distance: Of two of them.
        metric: Its name, for the message.

    Raises:
        InputError: No item has two values.
    """
    groups: dict[str, list[T]] = {}
    for item, value in zip(items, values, strict=True):
        groups.setdefault(item, []).append(value)
    distances = [distance(a, b) for group in groups.values() for a, b in combinations(group, 2)]
    if not distances:
        raise InputError(f"{metric}: no prompt has two images, and it compares images of one prompt: draw more")
    return float(np.mean(distances))
