"""A judge of a test's own, which loads nothing."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ddspo.metrics.base import Judge, Metric, Score


class Plain(Metric):
    """Judges by one method."""

    title = "plain"

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        yield self.judge

    @abstractmethod
    def judge(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
        """One score an image."""
