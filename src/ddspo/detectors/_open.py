"""What detectors of an open vocabulary share: they are asked for names, and answer with boxes."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddspo.detectors._photographs import PhotographReader
from ddspo.detectors.base import Detection
from ddspo.errors import InputError, quoted


@dataclass(frozen=True)
class OpenReader(PhotographReader):
    """Reads images of one size together where the same names are asked for."""

    network: Any
    tokenizer: Any
    threshold: float

    def question(self, names: Collection[str]) -> frozenset[str]:
        """The names, in any order."""
        return frozenset(names)

    def read(self, images: Sequence[np.ndarray], names: Sequence[list[str]]) -> list[list[Detection]]:
        """Boxes of the names, each of one name."""
        asked = names[0]
        return self.ask(images, asked) if asked else [[] for _ in images]

    @abstractmethod
    def ask(self, images: Sequence[np.ndarray], names: list[str]) -> list[list[Detection]]:
        """Find some names, at least one, in images of one size."""

    def kept(
        self, confidences: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, names: Sequence[str]
    ) -> list[Detection]:
        """Those of [boxes] that exceed the threshold.

        Args:
            confidences: [boxes].
            labels: Which name each is, [boxes].
            boxes: Centre, width and height, [boxes, 4] in pixels.
            names: What labels count.
        """
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = torch.cat([centre - half, centre + half], dim=-1).tolist()
        rows = zip(confidences.tolist(), labels.tolist(), corners, strict=True)
        return [Detection(names[label], c, tuple(box)) for c, label, box in rows if c > self.threshold]


def check_length(tokens: int, most: int, what: object) -> None:
    """Refuse text of which the end would be lost.

    Raises:
        InputError: There are more tokens than are read.
    """
    if tokens > most:
        raise InputError(
            f"{quoted(what)}: {tokens} tokens, of which the detector reads {most}: name it in fewer words"
        )
