"""Mask2Former on COCO's eighty classes with mmdet's preparation and results: GenEval's own detector, without mmdet."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch.nn.functional import interpolate, pad
from typing_extensions import Doc

from ddspo.detectors._colours import ColourReader
from ddspo.detectors._loading import loaded
from ddspo.detectors._mmdet import converted, read_mmdet
from ddspo.detectors._names import NAMES
from ddspo.detectors._photographs import PhotographDetector, PhotographReader
from ddspo.detectors.base import Detection, Reader
from ddspo.downloads import Download
from ddspo.errors import InputError
from ddspo.weights import Hub, Web, Weights

OFFICIAL = Download(
    "https://download.openmmlab.com/mmdetection/v2.0/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco/"
    "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
    sha256="743b7d99",
    largest=400_000_000,
)
"""GenEval's file; its name ends with how its SHA-256 begins."""
SHORT, LONG, STRIDE = 800, 1333, 32
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
GREY = 128
"""What the right and the bottom are filled with, before normalising."""
MOST = 100
"""Pairs of query and class that are kept of an image."""


@dataclass(frozen=True)
class Mask2Former(PhotographDetector):
    """Finds COCO's classes with their masks, as mmdet's `instance_postprocess` does from the network's raw logits.

    p = softmax of a query's class logits; of all queries x classes the 100 with the highest p are objects, so that a
    query may be two. Its mask is where its logit exceeds 0; confidence = p * mean of sigmoid(logit) inside the mask.
    Networks whose processor or post-processing does otherwise (384 pixels, masks painted over one another) are not
    asked for theirs.

    The official file is turned from mmdet's names into transformers'. What this rests on was checked on small networks
    of both layouts, not on the file itself, and no official score was reproduced with it: compare yours with a
    published one first.

    Source: Cheng et al. 2022, arXiv 2112.01527; mmdetection 2.x, `mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco`.
    """

    model: Annotated[
        str | None, Doc("folder or hub id of one of transformers with COCO's 80 classes; none: GenEval's own of mmdet")
    ] = None
    revision: Annotated[str | None, Doc("its branch, tag or commit")] = None

    @property
    def classes(self) -> Collection[str]:
        """COCO's, by GenEval's names."""
        return NAMES

    @property
    def own_weights(self) -> Weights:
        """mmdet's file, or a model of transformers."""
        if self.model is None:
            return Web(2.75e8, "Apache-2.0", True, OFFICIAL)
        return Hub(2.75e8, "its publisher's", True, self.model, self.revision)

    def reader(self, device: torch.device, colours: ColourReader) -> Reader:
        """Load it, converted if need be.

        Raises:
            InputError: It is another network, or of other classes.
        """
        from transformers import Mask2FormerForUniversalSegmentation as Network

        path = self.own_weights.path()
        if self.model is None:
            config = official_config()
            network = loaded(Network, None, device, config=config, state_dict=converted(read_mmdet(path), config))
        else:
            network = loaded(Network, path, device)
        if network.config.num_labels != len(NAMES):
            raise InputError(f"{path}: it knows {network.config.num_labels} classes, not COCO's {len(NAMES)} things")
        return Mask2FormerReader(colours, device, network)


def official_config() -> Any:
    """Of mmdet's network: Swin-S, 6 and 9 layers, 100 queries."""
    from transformers import Mask2FormerConfig, SwinConfig

    stages = [f"stage{n}" for n in range(1, 5)]
    swin = SwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), window_size=7, out_features=stages)
    return Mask2FormerConfig(backbone_config=swin, encoder_layers=6, decoder_layers=10, num_labels=len(NAMES))


@dataclass(frozen=True)
class Mask2FormerReader(PhotographReader):
    """Reads images of one size together, and takes their results apart one by one."""

    network: Any

    def question(self, names: Collection[str]) -> None:
        """It is not asked for names."""

    def read(self, images: Sequence[np.ndarray], names: Sequence[list[str]]) -> list[list[Detection]]:
        """Objects of the named classes."""
        pixels, size = prepared(images)
        logits = self.network(pixel_values=pixels.to(self.device))
        every = zip(images, names, logits.class_queries_logits, logits.masks_queries_logits, strict=True)
        places = {name: place for place, name in enumerate(NAMES)}
        found = []
        for image, asked, classes, masks in every:
            labels = [places[name] for name in asked if name in places]
            found.append(objects(classes, masks, labels, Sizes(tuple(pixels.shape[-2:]), size, image.shape[:2])))
        return found


@dataclass(frozen=True)
class Sizes:
    """Heights and widths: filled up, of the image within, and of the image as it came."""

    padded: tuple[int, ...]
    resized: tuple[int, ...]
    original: tuple[int, ...]


def prepared(images: Sequence[np.ndarray]) -> tuple[torch.Tensor, tuple[int, int]]:
    """What the network reads, [N, 3, H, W] float32, of images of one size, and the size of the images in it.

    The short side becomes 800 unless the long one would exceed 1333; bilinear without antialias, to whole grey levels
    as OpenCV gives them; grey at the right and the bottom up to multiples of 32; normalised.
    """
    height, width = images[0].shape[:2]
    scale = min(LONG / max(height, width), SHORT / min(height, width))
    size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    pixels = interpolate(pixels, size=size, mode="bilinear", align_corners=False).round()
    pixels = pad(pixels, (0, -size[1] % STRIDE, 0, -size[0] % STRIDE), value=GREY)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], size


def objects(classes: torch.Tensor, masks: torch.Tensor, labels: Sequence[int], sizes: Sizes) -> list[Detection]:
    """The objects of some classes in one image.

    Args:
        classes: Logits [queries, classes + 1]; the last is no object.
        masks: Logits [queries, h, w], a fraction of the padded size.
        labels: The classes to look for.
        sizes: Of the image.
    """
    chance = classes.softmax(-1)[:, :-1].flatten()
    best = chance.topk(min(MOST, len(chance)))
    kept = torch.isin(best.indices % (classes.shape[1] - 1), torch.tensor(labels, device=classes.device))
    chances, indices = best.values[kept].tolist(), best.indices[kept].tolist()
    found = []
    for p, index in zip(chances, indices, strict=True):
        query, label = divmod(index, classes.shape[1] - 1)
        detection = _object(NAMES[label], p, at_original_size(masks[query], sizes))
        found += [detection] if detection else []
    return found


def at_original_size(mask: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """A mask's logits [h, w], first at the padded size, of which the image is cut out, then at the image's own."""
    whole = interpolate(mask[None, None], size=sizes.padded, mode="bilinear", align_corners=False)
    image = whole[..., : sizes.resized[0], : sizes.resized[1]]
    return interpolate(image, size=sizes.original, mode="bilinear", align_corners=False)[0, 0]


def _object(name: str, chance: float, logits: torch.Tensor) -> Detection | None:
    """An object of a mask's logits [H, W], or None where none is positive."""
    mask = logits > 0
    if not mask.any():
        return None
    sure = (logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6)
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return Detection(name, chance * float(sure), tuple(float(side) for side in box), mask.cpu().numpy())
