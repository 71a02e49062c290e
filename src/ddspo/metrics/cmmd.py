"""How far images are from real ones, by CLIP: maximum mean discrepancy (Jayasumana et al. 2024, arXiv 2401.09603).

Needs fewer images than FID, supposes no Gaussians, and CLIP knows more than the 1000 classes of ImageNet. As google-
research/cmmd computes it: the centre of an image, as a square, is resized to 336 pixels by PIL's bicubic filter; the
embeddings have length 1; the estimator is the one with the diagonal, whose least value is 0 and which is biased.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Doc

from ddspo.metrics._sets import Features, in_parts, joined, two_sides
from ddspo.metrics.base import SetJudge, SetMetric
from ddspo.pixels import normalised
from ddspo.weights import Hub

AT_ONCE = 16
"""Images that go through CLIP at once."""
SIGMA, SCALE = 10.0, 1000.0
"""Of the kernel, and for the eyes."""
ROWS = 1024
"""Of the kernel's matrix that are in memory at once."""


@dataclass(frozen=True)
class CMMD(SetMetric):
    """1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k(a, b) = exp(-|a - b|^2 / 200), of CLIP embeddings."""

    title = "CMMD"
    higher_is_better = False
    needs_references = True

    model: Annotated[str, Doc("folder or hub id of the CLIP")] = "openai/clip-vit-large-patch14-336"
    revision: Annotated[str | None, Doc("branch, tag or commit of the hub id")] = None

    @property
    def weights(self) -> tuple[Hub]:
        """CLIP, of which the hub has a pickle only; no code of it is run."""
        return (Hub(1.71e9, "MIT", True, self.model, self.revision, ("pytorch_model.bin",)),)

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load CLIP; the references go through it when the first set is there."""
        with _opened(self.weights[0], device) as features:
            sides = two_sides(features, references, 2, "cmmd")
            yield lambda images: {"cmmd": discrepancy(*sides(images))}


@contextmanager
def _opened(weights: Hub, device: torch.device) -> Iterator[Features]:
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(weights.path(), dtype=torch.float32, weights_only=True).eval()
    eye, projection = clip.vision_model.to(device), clip.visual_projection.to(device)
    side = clip.config.vision_config.image_size

    @torch.no_grad()
    def embeddings(images: list[np.ndarray]) -> Tensor:
        found = projection(eye(pixel_values=square_pixels(images, side).to(device)).pooler_output)
        return torch.nn.functional.normalize(found, dim=-1).cpu()

    yield lambda images: joined(embeddings(part) for part in in_parts(images, AT_ONCE))


def square_pixels(images: Iterable[np.ndarray], side: int) -> Tensor:
    """What CLIP reads, [N, 3, side, side]: the middle of each image is cut out first, and resized then."""
    squares = [_square(Image.fromarray(image)) for image in images]
    return normalised([each.resize((side, side), Image.Resampling.BICUBIC) for each in squares])


def _square(image: Image.Image) -> Image.Image:
    """Half a pixel that is left over goes to the right and the bottom."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short))


def discrepancy(x: Tensor, y: Tensor) -> float:
    """CMMD of embeddings [N, F] and [M, F], in float64."""
    x, y = x.double(), y.double()
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    """Mean of exp(-|a - b|^2 / (2 sigma^2)) over all pairs, each with itself too."""
    lengths = y.square().sum(1)
    total = 0.0
    for part in (x[first : first + ROWS] for first in range(0, len(x), ROWS)):
        apart = part.square().sum(1)[:, None] + lengths - 2 * part @ y.T
        total += float(torch.exp(-apart / (2 * SIGMA**2)).sum())
    return total / (len(x) * len(y))
