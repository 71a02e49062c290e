"""All weights of the denoiser; a frozen copy is the reference."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddspo.adaptations.base import Adaptation, Reference
from ddspo.backbones.base import Backbone


@dataclass(frozen=True)
class Full(Adaptation):
    """Full fine-tuning: the denoiser in float32 and a frozen copy in the model's own precision."""

    saves_pipeline = True

    def attach(self, backbone: Backbone, seed: int) -> Reference:
        """Copy the reference, then train everything."""
        denoiser = backbone.denoiser
        reference = copy.deepcopy(denoiser).requires_grad_(False).eval()
        denoiser.to(torch.float32).requires_grad_(True)
        return lambda: nullcontext(reference)

    def weights(self, denoiser: Any) -> dict[str, Tensor]:
        """Every weight."""
        return denoiser.state_dict()

    def restore(self, denoiser: Any, weights: dict[str, Tensor]) -> None:
        """Put every weight back."""
        denoiser.load_state_dict(weights)

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Write the whole pipeline folder."""
        backbone.save(folder)

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Take the denoiser of the saved folder."""
        kind: Any = type(backbone.denoiser)
        trained = kind.from_pretrained(folder / backbone.denoiser_name, dtype=backbone.denoiser.dtype)
        setattr(backbone.pipeline, backbone.denoiser_name, trained.to(backbone.device))
