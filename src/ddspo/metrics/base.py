"""What a metric is: one file that says everything about itself and opens a judge of single images or of sets."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from ddspo.digests import LENGTH
from ddspo.weights import Weights

ALL = "all"
"""The one group of a metric whose overall score is the mean over all images."""


class Score(NamedTuple):
    """The value of one image, and in words what is wrong or remarkable."""

    value: float
    note: str = ""


class Shown(NamedTuple):
    """An image of a set: [H, W, 3] uint8, and which prompt's it is."""

    image: np.ndarray
    item: str


Judge = Callable[[Sequence[np.ndarray], Sequence[Mapping[str, Any]]], list[Score]]
"""Scores images [H, W, 3] uint8, of any sizes, each against its row, which has a `prompt`; as many as it is given."""
SetJudge = Callable[[Iterable[Shown]], dict[str, float]]
"""Measures a set of images, which it reads once; the figure that the metric is named after comes first."""


class Measure(ABC):
    """What a recipe lists as metrics: a `Metric` or a `SetMetric`. Its options are all that scores depend on."""

    title: ClassVar[str]
    """What a table calls it."""
    higher_is_better: ClassVar[bool] = True
    half: ClassVar[bool] = False
    """Whether bfloat16 will do on CUDA."""
    version: ClassVar[int] = 1
    """Grows whenever the same options give other scores."""
    needs_references: ClassVar[bool] = False
    """Whether it measures against real images."""

    @property
    def name(self) -> str:
        """What a recipe calls it: its file's name."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def side(self) -> int | None:
        """Height and width in pixels of the images that it judges; None: any."""
        return None

    @property
    def weights(self) -> tuple[Weights, ...]:
        """What it loads."""
        return ()

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """What it needs of a row of the prompts and does not find there, or None; nothing is loaded for it."""
        return None

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of its networks on a device."""
        return torch.bfloat16 if self.half and device.type == "cuda" else torch.float32

    def identity(self, device: torch.device) -> str:
        """Name and digest of all that its scores depend on: options, weights, and the precision of a device.

        Raises:
            InputError: Weights are nowhere, or cannot be reached.
        """
        parts = (repr(self), self.version, self.dtype(device), *(each.identity for each in self.weights))
        return f"{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:LENGTH]}"


class Metric(Measure):
    """Scores every image on its own, against its row."""

    reads_prompt: ClassVar[bool] = True
    """Whether the row matters: then another prompt's row must give another score, which is looked at."""

    def group(self, row: Mapping[str, Any]) -> str:
        """The group of rows that one counts in: the overall score is the mean of the groups' means over images."""
        return ALL

    @abstractmethod
    def open(self, device: torch.device) -> AbstractContextManager[Judge]:
        """Load what it needs; it is freed when the block ends."""


class SetMetric(Measure):
    """Measures a set of images, against references or against nothing."""

    @abstractmethod
    def open(
        self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None
    ) -> AbstractContextManager[SetJudge]:
        """Load what it needs; it is freed when the block ends.

        Args:
            device: Where it computes.
            references: Gives the real images [H, W, 3] uint8, of any sizes, anew at each call; they are read at most
                once however many sets are measured. None where there are none, which one that needs them never sees.
        """


def tag_of(row: Mapping[str, Any]) -> str:
    """The tag of a row, for tables; rows without one are one group."""
    return str(row.get("tag") or ALL)
