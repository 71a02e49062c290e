"""The guidance input of denoisers that were distilled from guided samples."""

import torch
from torch import Tensor

from ddspo.backbones.base import Backbone


def guidance_input(backbone: Backbone, count: int) -> dict[str, Tensor]:
    """What such a denoiser is told of guidance in training, [count]; nothing where it has no such input.

    The scale is `model.distilled_guidance`, or else the pipeline's own, so that policy and reference are compared
    where images will be made.
    """
    if not backbone.config.guidance_embeds:
        return {}
    scale = backbone.guidance if backbone.distilled_guidance is None else backbone.distilled_guidance
    return {"guidance": torch.full((count,), scale, device=backbone.device)}
