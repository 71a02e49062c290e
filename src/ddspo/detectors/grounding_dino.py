"""Grounding DINO, which finds whatever it is asked for, as boxes without masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from PIL import Image
from typing_extensions import Doc

from ddspo.detectors._colours import ColourReader
from ddspo.detectors._loading import loaded
from ddspo.detectors._open import OpenReader, check_length
from ddspo.detectors._photographs import PhotographDetector
from ddspo.detectors.base import Detection, Reader
from ddspo.pixels import normalised
from ddspo.weights import Hub

SHORT, LONG = 800, 1333
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class GroundingDino(PhotographDetector):
    """Asks for all names of a row in one text, `cat. hot dog.`, and reads a box's name from the tokens it answers.

    With q the sigmoid of a box's logit at a token, the name is that with the highest mean of q over its own tokens
    (as in the authors' evaluation on COCO), and confidence = the highest of these q (as in their demo). It is no
    probability as Mask2Former's is: set the thresholds of what reads it (GenEval's .3 and .9) anew, and do not compare
    scores with those of another detector. Colours are told from all that a box holds.

    Source: Liu et al. 2023, arXiv 2303.05499.
    """

    model: Annotated[str, Doc("folder or hub id of a Grounding DINO of transformers")] = (
        "IDEA-Research/grounding-dino-base"
    )
    revision: Annotated[str | None, Doc("its branch, tag or commit")] = None
    threshold: Annotated[float, Interval(ge=0, le=1), Doc("a box that is told of has a confidence above it")] = 0.25

    @property
    def own_weights(self) -> Hub:
        """Those of transformers."""
        return Hub(9.3e8, "Apache-2.0", True, self.model, self.revision)

    def reader(self, device: torch.device, colours: ColourReader) -> Reader:
        """Load it."""
        from transformers import BertTokenizerFast, GroundingDinoForObjectDetection

        folder = self.own_weights.path()
        network = loaded(GroundingDinoForObjectDetection, folder, device)
        tokenizer = BertTokenizerFast.from_pretrained(folder)
        return GroundingDinoReader(colours, device, network, tokenizer, self.threshold)


@dataclass(frozen=True)
class GroundingDinoReader(OpenReader):
    """Asks every query of the network which tokens it is."""

    def ask(self, images: Sequence[np.ndarray], names: list[str]) -> list[list[Detection]]:
        """Boxes in pixels of images of one size."""
        pixels = prepared(images).to(self.device)
        tokens, own = self._tokens(names)
        found = self.network(
            pixel_values=pixels,
            pixel_mask=torch.ones_like(pixels[:, 0], dtype=torch.long),
            **{key: tensor.repeat(len(images), 1) for key, tensor in tokens.items()},
        )
        height, width = images[0].shape[:2]
        boxes = found.pred_boxes * torch.tensor([width, height, width, height], device=self.device)
        every = zip(found.logits.sigmoid(), boxes, strict=True)
        return [self.kept(*named(chances, own), box, names) for chances, box in every]

    def _tokens(self, names: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The text, and which of its tokens are whose, [names, tokens] bool."""
        words = [clean(name) for name in names]
        text = "".join(f"{word}. " for word in words).strip()
        read = self.tokenizer(text, return_offsets_mapping=True)
        check_length(len(read["input_ids"]), self.network.config.max_text_len, ", ".join(names))
        starts = np.cumsum([0, *(len(word) + 2 for word in words)])
        own = [
            [start <= first < last <= start + len(word) for first, last in read["offset_mapping"]]
            for word, start in zip(words, starts, strict=False)
        ]
        keys = ("input_ids", "attention_mask", "token_type_ids")
        tokens = {key: torch.tensor([read[key]], device=self.device) for key in keys}
        return tokens, torch.tensor(own, device=self.device)


def clean(name: str) -> str:
    """A name as the text has it: small letters, and nothing that ends a phrase."""
    return " ".join(name.lower().replace(".", " ").replace("?", " ").split())


def named(chances: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidence and name of each box.

    Args:
        chances: Of each box at each token, [boxes, tokens or more].
        own: Which tokens are whose, [names, tokens].
    """
    each = chances[:, None, : own.shape[1]] * own
    labels = (each.sum(-1) / own.sum(-1).clamp(min=1)).argmax(-1)
    return each.amax(-1).gather(1, labels[:, None])[:, 0], labels


def prepared(images: Sequence[np.ndarray]) -> torch.Tensor:
    """What the network reads, [N, 3, H, W] float32, of images of one size.

    The short side becomes 800 unless the long one would exceed 1333, by PIL's bilinear filter; normalised.
    """
    height, width = images[0].shape[:2]
    short, long = min(height, width), max(height, width)
    scale = min(SHORT / short, LONG / long)
    shorter = max(1, round(short * scale))
    longer = int(long * (SHORT / short)) if scale == SHORT / short else LONG
    size = (longer, shorter) if width >= height else (shorter, longer)
    resized = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in images]
    return normalised(resized, MEAN, STD)
