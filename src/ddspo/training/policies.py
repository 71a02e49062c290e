"""One set of weights, several behaviours."""

from dataclasses import dataclass

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
        adaptation: Which weights are trained.
        networks: The trained network alone, wrapped for distribution where there are several processes.
        reference: Opens the frozen reference.
    """

    backbone: Backbone
    adaptation: Adaptation
    networks: list[nn.Module]
    reference: Reference

    @classmethod
    def of(cls, backbone: Backbone, adaptation: Adaptation, seed: int) -> "Policies":
        """Make a backbone's denoiser trainable, on its own device."""
        reference = adaptation.attach(backbone, seed)
        return cls(backbone, adaptation, [backbone.denoiser], reference)

    @property
    def denoiser(self) -> nn.Module:
        """The trained network, as the step calls it."""
        return self.networks[0]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """All trained parameters, as one group."""
        return {"grad_norm": [each for each in self.backbone.denoiser.parameters() if each.requires_grad]}

    def weights(self) -> dict[str, Tensor]:
        """The policy's trained weights."""
        return self.adaptation.weights(self.backbone.denoiser)

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put the policy's trained weights back."""
        self.adaptation.restore(self.backbone.denoiser, weights)

    def updated(self, step: int) -> None:
        """Nothing here follows the policy."""

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
