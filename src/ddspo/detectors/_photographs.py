"""What the detectors of photographs share: a CLIP that names colours, and how images are put together."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.detectors._colours import COLOURS, ColourReader, colour_reader
from ddspo.detectors.base import Detection, Detector, Reader
from ddspo.weights import Hub, Weights

CLIP = "openai/clip-vit-large-patch14"
AT_ONCE = 4
"""Images of one size that a network reads at once: some GB at 800 pixels a side."""


@dataclass(frozen=True)
class PhotographDetector(Detector):
    """A detector of photographs, which asks CLIP for colours where a row names one."""

    colour_model: Annotated[str, Doc("folder or hub id of the CLIP that names colours")] = CLIP
    colour_revision: Annotated[str | None, Doc("its branch, tag or commit")] = None

    @property
    def colours(self) -> Collection[str]:
        """GenEval's ten."""
        return COLOURS

    @property
    @abstractmethod
    def own_weights(self) -> Weights:
        """Those of the detector itself."""

    @property
    def colour_weights(self) -> Hub:
        """Those of CLIP."""
        return Hub(1.71e9, "MIT", True, self.colour_model, self.colour_revision)

    @property
    def weights(self) -> tuple[Weights, ...]:
        """Its own and CLIP's."""
        return (self.own_weights, self.colour_weights)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Reader]:
        """Load both networks."""
        yield self.reader(device, colour_reader(self.colour_weights.path(), device))

    @abstractmethod
    def reader(self, device: torch.device, colours: ColourReader) -> Reader:
        """Load its own network."""


@dataclass(frozen=True)
class PhotographReader(Reader):
    """Reads images of one size together, and asks CLIP for colours."""

    colour_reader: ColourReader
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        """The objects of the classes that are asked for, most confident first."""
        found: dict[int, list[Detection]] = {}
        for some in alike(images, [self.question(each) for each in names]):
            every = self.read([images[index] for index in some], [sorted(set(names[index])) for index in some])
            found |= zip(some, every, strict=True)
        return [sorted(found[index], key=lambda each: -each.confidence) for index in range(len(images))]

    def colours(self, image: np.ndarray, found: Sequence[Detection]) -> list[str | None]:
        """What CLIP says."""
        return list(self.colour_reader(image, found))

    @abstractmethod
    def question(self, names: Collection[str]) -> object:
        """What images must have in common to be read together, besides their size."""

    @abstractmethod
    def read(self, images: Sequence[np.ndarray], names: Sequence[list[str]]) -> list[list[Detection]]:
        """Find objects in images of one size and one question."""


def alike(images: Sequence[np.ndarray], questions: Sequence[object]) -> Iterator[list[int]]:
    """Places of images of one size and one question, a few at a time."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for index, (image, question) in enumerate(zip(images, questions, strict=True)):
        groups[image.shape, question].append(index)
    for group in groups.values():
        yield from (group[first : first + AT_ONCE] for first in range(0, len(group), AT_ONCE))
