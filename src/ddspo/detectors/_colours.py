"""The colours of objects, asked of CLIP as GenEval asks it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ddspo.detectors._loading import loaded
from ddspo.detectors.base import Detection
from ddspo.pixels import clip_pixels

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
QUESTIONS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
"""The `object` of the last is no class: it is asked as it stands."""
GREY = "#999"
"""What lies around an object of known mask."""
AT_ONCE = 16


@dataclass
class ColourReader:
    """The nearest of ten colours: argmax over them of cos(image of the object, mean of its three texts).

    Each text is normalised before they are averaged, and the mean again. An object with a mask is laid on grey and cut
    out by its box; of one without, all that its box holds is looked at.
    """

    model: Any
    tokenizer: Any
    texts: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of each class the colours' directions [10, width], once it was asked for."""

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, found: Sequence[Detection]) -> list[str]:
        """The colours of objects of an image [H, W, 3] uint8."""
        colours: list[str] = []
        for first in range(0, len(found), AT_ONCE):
            some = found[first : first + AT_ONCE]
            seen = self._seen([cut_out(image, each) for each in some])
            asked = torch.stack([self._asked(each.name) for each in some])
            best = torch.einsum("nd,ncd->nc", seen, asked).argmax(-1)
            colours += [COLOURS[index] for index in best.tolist()]
        return colours

    def _seen(self, objects: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = clip_pixels(objects, self.model.config.vision_config.image_size)
        read = self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return normalize(read.pooler_output.float(), dim=-1)

    def _asked(self, name: str) -> torch.Tensor:
        if name not in self.texts:
            texts = [question.format(colour=c, name=name) for c in COLOURS for question in QUESTIONS]
            tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            read = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output.float()
            every = normalize(read, dim=-1).reshape(len(COLOURS), len(QUESTIONS), -1)
            self.texts[name] = normalize(every.mean(1), dim=-1)
        return self.texts[name]


def colour_reader(folder: Path, device: torch.device) -> ColourReader:
    """A CLIP of a folder, in full precision.

    Raises:
        InputError: It holds none.
    """
    from transformers import CLIPModel, CLIPTokenizer

    model = loaded(CLIPModel, folder, device)
    return ColourReader(model, CLIPTokenizer.from_pretrained(folder))


def cut_out(image: np.ndarray, found: Detection) -> np.ndarray:
    """What the box of an object holds, at least one pixel, on grey where its mask is not."""
    shown = Image.fromarray(image)
    if found.mask is not None:
        shown = Image.composite(shown, Image.new("RGB", shown.size, GREY), Image.fromarray(found.mask))
    left, right = _inside(found.box[0], found.box[2], shown.width)
    top, bottom = _inside(found.box[1], found.box[3], shown.height)
    return np.asarray(shown.crop((left, top, right, bottom)))


def _inside(start: float, end: float, length: int) -> tuple[int, int]:
    """A side of a box in whole pixels of the image."""
    first = min(max(round(start), 0), length - 1)
    return first, max(min(round(end), length), first + 1)
