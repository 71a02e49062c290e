"""What a metric is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Score(NamedTuple):
    """The value of one image, whether its content was read with confidence, and in words what is wrong."""

    value: float
    confident: bool
    note: str = ""


def tag_of(item: Mapping[str, Any]) -> str:
    """The group whose mean a prompt counts in; rows without a `tag` are one group."""
    return str(item.get("tag") or "all")


class Metric(ABC):
    """Scores images against the rows of a prompt file."""

    @property
    def side(self) -> int | None:
        """Height and width in pixels of the images that it judges; None: any."""
        return None

    @abstractmethod
    def check(self, item: Mapping[str, Any]) -> str | None:
        """What this metric misses in a row of the prompt file, or None."""

    @abstractmethod
    def __call__(self, images: Sequence[np.ndarray], items: Sequence[Mapping[str, Any]]) -> list[Score]:
        """One score an image, [H, W, 3] uint8 each."""
