"""What both releases of the Human Preference Score v2 share (Wu et al. 2023, arXiv 2306.09341)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch.nn import functional
from typing_extensions import Doc

from ddspo.metrics._clip import Clip, build_clip, scores
from ddspo.metrics._open_clip import from_open_clip
from ddspo.metrics._tensors import tensors
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import CLIP_MEAN, CLIP_STD
from ddspo.weights import Hub


@dataclass(frozen=True)
class HumanPreference(Metric):
    """100 cos(image, prompt) of a CLIP-H, without its logit scale.

    The weights are a state dict of open_clip's ViT-H-14; its configuration, with the exact GELU, and the tokenizer are
    those of the CLIP that it began as. The whole image is seen: its long side is resized, and black is around it.
    """

    place: Annotated[str, Doc("folder or hub id of the published file")] = "xswu/HPSv2"
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    base: Annotated[
        str, Doc("folder or hub id of the CLIP that it began as; only configuration and tokenizer are read")
    ] = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    @property
    @abstractmethod
    def file(self) -> str:
        """Name of the published file."""

    @property
    def weights(self) -> tuple[Hub, ...]:
        """The published file, and what says how to read it."""
        published = Hub.of_file(self.file, 1.97e9, "Apache-2.0", self.place, self.revision)
        base = Hub(size=4e6, licence="MIT", commercial=True, place=self.base, files=("config.json",))
        return published, base

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load the CLIP."""
        clip = self._load(device)

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            pixels = torch.stack([padded(image, clip.side) for image in images])
            return scores(100 * clip.cosines(pixels, rows))

        yield judge

    def _load(self, device: torch.device) -> Clip:
        published, base = (each.path() for each in self.weights)
        found = from_open_clip(tensors(self.place, published / self.file))
        return build_clip(f"{self.place} on {self.base}", base, found, device, self.dtype(device))


def padded(image: np.ndarray, side: int) -> torch.Tensor:
    """The long side resized to `side`, bicubic with antialias, black around it, and then normalised as CLIP wants it.

    Floats are resized, not bytes: what lies just outside of black and white is not cut off.

    Args:
        image: [H, W, 3] uint8.
        side: Pixels of a side of what is made of it: [3, side, side].
    """
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(each * scale)) for each in image.shape[:2])
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    if scale != 1:
        pixels = functional.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=True)
    left, top = (side - width) // 2, (side - height) // 2
    whole = functional.pad(pixels[0], (left, side - width - left, top, side - height - top))
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
    return (whole - mean) / std
