"""What metrics of sets share: images in small batches, references that are read once, groups of one prompt."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from ddspo.errors import InputError
from ddspo.metrics.base import Shown

T = TypeVar("T")
Features = Callable[[Iterable[np.ndarray]], torch.Tensor]
"""[N, F] of images [H, W, 3] uint8 of any sizes."""


def in_parts(images: Iterable[np.ndarray], number: int) -> Iterator[list[np.ndarray]]:
    """So many at a time, the last of them fewer."""
    every = iter(images)
    return iter(lambda: list(islice(every, number)), [])


def joined(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Rows of any number of parts, of none too."""
    found = list(parts)
    return torch.cat(found) if found else torch.empty(0, 0)


def two_sides(
    features: Features, references: Callable[[], Iterable[np.ndarray]] | None, least: int, metric: str
) -> Callable[[Iterable[Shown]], tuple[torch.Tensor, torch.Tensor]]:
    """A function that gives the features of a set and of the references, which it takes once, for the first set.

    Args:
        features: Of images.
        references: Gives the real images.
        least: Images that both sides must have.
        metric: Its name, for messages.

    Raises:
        InputError: There are no references; from the function, a side has too few images.
    """
    if references is None:
        raise InputError(f"{metric}: it measures against real images: give references")
    real = cache(lambda: features(references()))

    def sides(images: Iterable[Shown]) -> tuple[torch.Tensor, torch.Tensor]:
        found = features(each.image for each in images)
        enough(len(found), least, metric)
        enough(len(real()), least, metric, "references")
        return found, real()

    return sides


def enough(number: int, least: int, metric: str, what: str = "images") -> None:
    """Refuse a set that is too small to be measured.

    Raises:
        InputError: It is.
    """
    if number < least:
        raise InputError(f"{metric}: {number} {what}, and it takes {least} or more: give more")


def noted(shown: Iterable[Shown], items: list[str]) -> Iterator[np.ndarray]:
    """The images, one in memory at a time; whose they are is noted on the way."""
    for each in shown:
        items.append(each.item)
        yield each.image


def groups_of(items: Sequence[str], values: Iterable[T], metric: str) -> list[list[T]]:
    """The values of each item that has two or more of them.

    Args:
        items: Whose each value is.
        values: What is compared.
        metric: Its name, for the message.

    Raises:
        InputError: No item has two.
    """
    groups: dict[str, list[T]] = {}
    for item, value in zip(items, values, strict=True):
        groups.setdefault(item, []).append(value)
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        raise InputError(f"{metric}: no prompt has two images, and it compares images of one prompt: draw more")
    return found
