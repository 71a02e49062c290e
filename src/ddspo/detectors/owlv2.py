"""OWLv2, which finds whatever it is asked for, as boxes without masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from scipy import ndimage
from typing_extensions import Doc

from ddspo.detectors._colours import ColourReader
from ddspo.detectors._loading import loaded
from ddspo.detectors._open import OpenReader, check_length
from ddspo.detectors._photographs import PhotographDetector
from ddspo.detectors.base import Detection, Reader
from ddspo.pixels import CLIP_MEAN, CLIP_STD
from ddspo.weights import Hub

QUESTION = "a photo of a {}"


@dataclass(frozen=True)
class Owlv2(PhotographDetector):
    """Looks for "a photo of a NAME" of each name that a row holds; a patch is the name with the highest logit.

    confidence = sigmoid of that logit. It is no probability as Mask2Former's is: set the thresholds of what reads it
    (GenEval's .3 and .9) anew, and do not compare scores with those of another detector. One object may get several
    boxes: GenEval's `max_overlap` drops them. Colours are told from all that a box holds.

    Source: Minderer et al. 2023, arXiv 2306.09683.
    """

    model: Annotated[str, Doc("folder or hub id of an OWLv2 of transformers")] = "google/owlv2-base-patch16-ensemble"
    revision: Annotated[str | None, Doc("its branch, tag or commit")] = None
    threshold: Annotated[float, Interval(ge=0, le=1), Doc("a box that is told of has a confidence above it")] = 0.1

    @property
    def own_weights(self) -> Hub:
        """Those of transformers."""
        return Hub(6.2e8, "Apache-2.0", True, self.model, self.revision)

    def reader(self, device: torch.device, colours: ColourReader) -> Reader:
        """Load it."""
        from transformers import CLIPTokenizer, Owlv2ForObjectDetection

        folder = self.own_weights.path()
        network = loaded(Owlv2ForObjectDetection, folder, device)
        return Owlv2Reader(colours, device, network, CLIPTokenizer.from_pretrained(folder), self.threshold)


@dataclass(frozen=True)
class Owlv2Reader(OpenReader):
    """Asks every patch of an image which name it is."""

    def ask(self, images: Sequence[np.ndarray], names: list[str]) -> list[list[Detection]]:
        """Boxes in pixels of images of one size."""
        pixels = prepared(images, self.network.config.vision_config.image_size).to(self.device)
        tokens = self._tokens(names)
        found = self.network(
            pixel_values=pixels,
            input_ids=tokens["input_ids"].repeat(len(images), 1),
            attention_mask=tokens["attention_mask"].repeat(len(images), 1),
        )
        best, longest = found.logits.max(-1), max(images[0].shape[:2])
        every = zip(best.values.sigmoid(), best.indices, found.pred_boxes * longest, strict=True)
        return [self.kept(*each, names) for each in every]

    def _tokens(self, names: list[str]) -> dict[str, torch.Tensor]:
        most = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            [QUESTION.format(name) for name in names], padding="max_length", max_length=most, return_tensors=None
        )
        for name, ids in zip(names, tokens["input_ids"], strict=True):
            check_length(len(ids), most, name)
        return {key: torch.tensor(tokens[key], device=self.device) for key in ("input_ids", "attention_mask")}


def prepared(images: Sequence[np.ndarray], side: int) -> torch.Tensor:
    """What the network reads, [N, 3, side, side] float32: black at the right or the bottom up to a square, resized.

    Bilinear, after a Gaussian of half the excess of the scale over 1 where it becomes smaller. Black and not grey:
    transformers before 5 filled up with 0.5 as OWL-ViT does, which costs OWLv2 half a point of LVIS
    (huggingface/transformers#41938).
    """
    every = np.stack([_square(image.astype(np.float32) / np.float32(255), side) for image in images])
    scaled = (every - np.array(CLIP_MEAN, dtype=np.float32)) / np.array(CLIP_STD, dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    longest = max(height, width)
    square = np.pad(pixels, ((0, longest - height), (0, longest - width), (0, 0)))
    blur, scale = max(0.0, (longest / side - 1) / 2), side / longest
    smooth = ndimage.gaussian_filter(square, (blur, blur, 0), mode="mirror")
    return ndimage.zoom(smooth, (scale, scale, 1), order=1, mode="mirror", grid_mode=True).clip(
        square.min(), square.max()
    )
