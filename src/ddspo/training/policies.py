"""One set of weights, several behaviours."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddspo.adaptations.base import Adaptation, Reference
from ddspo.backbones.base import Backbone
from ddspo.policy_pairs.base import Condition


@dataclass
class Policies:
    """The trained policy and the frozen ones.

    Attributes:
        backbone: Knows how to predict with a denoiser.
        denoiser: The trained network, wrapped for distribution where there are several processes.
        reference: Opens the frozen reference.
    """

    backbone: Backbone
    denoiser: nn.Module
    reference: Reference

    @classmethod
    def of(cls, backbone: Backbone, adaptation: Adaptation, seed: int) -> "Policies":
        """Make a backbone's denoiser trainable, on its own device."""
        denoiser: Any = backbone.denoiser
        return cls(backbone, denoiser, adaptation.attach(denoiser, seed))

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's prediction, with gradient."""
        return self.backbone.predict(self.denoiser, x_t, t, condition)

    @torch.no_grad()
    def frozen(self, x_t: Tensor, t: Tensor, condition: Condition, who: str = "reference") -> Tensor:
        """The prediction of a frozen policy.

        Raises:
            ValueError: There is no policy of that name.
        """
        if who != "reference":
            raise ValueError(f"no frozen policy {who!r}: only 'reference'")
        with self.reference() as network:
            return self.backbone.predict(network, x_t, t, condition)
