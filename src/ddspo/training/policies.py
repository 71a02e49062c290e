"""One set of weights, several behaviours."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ddspo.adaptations.base import Adaptation, Behaviour
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.reference_policies.base import Reference
from ddspo.reference_policies.frozen import FrozenReference


@dataclass(frozen=True)
class Pretrained:
    """Winner and loser of a data-driven pair: how they were trained, and the folder that holds winner/ and loser/."""

    adaptation: Adaptation
    folder: Path


@dataclass
class Policies:
    """The trained policy and the frozen ones.

    Attributes:
        backbone: Knows how to predict with a denoiser.
        adaptation: Which weights are trained.
        trained: The policy.
        behaviours: The frozen policies by name: 'reference', and 'winner' and 'loser' where they are needed.
        reference: How the reference follows the policy.
        networks: The trained network alone, wrapped for distribution where there are several processes.
        frozen_networks: Those of frozen policies that are not the trained one.
    """

    backbone: Backbone
    adaptation: Adaptation
    trained: Behaviour
    behaviours: dict[str, Behaviour]
    reference: Reference = field(default_factory=FrozenReference)

    def __post_init__(self) -> None:
        self.networks: list[nn.Module] = [self.trained.network]
        others = {id(each.network): each.network for each in self.behaviours.values()}
        self.frozen_networks = [network for network in others.values() if network is not self.trained.network]

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        adaptation: Adaptation,
        seed: int,
        pretrained: Pretrained | None = None,
        reference: Reference | None = None,
        *,
        frozen: bool = True,
    ) -> "Policies":
        """Make a backbone's denoiser trainable, on its own device.

        Winner and loser are the base and what they learned, also where the reference moves away from the base. Where
        no frozen policy is asked for (`frozen`), none is kept.
        """
        trained, base = adaptation.attach(backbone, seed, frozen=frozen)
        if base is None:
            return cls(backbone, adaptation, trained, {})
        behaviours = {"reference": base}
        if pretrained:
            for who in ("winner", "loser"):
                behaviours[who] = pretrained.adaptation.frozen(backbone, base, who, pretrained.folder / who)
        reference = reference or FrozenReference()
        if reference.moves:
            behaviours["reference"] = adaptation.twin(backbone, trained, "reference")
        return cls(backbone, adaptation, trained, behaviours, reference)

    @property
    def denoiser(self) -> nn.Module:
        """The trained network, as the step calls it."""
        return self.networks[0]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """All trained parameters, as one group."""
        return {"grad_norm": self.adaptation.parameters(self.trained)}

    def weights(self) -> dict[str, Tensor]:
        """The policy's trained weights, and those of a reference that moves."""
        weights = self.adaptation.weights(self.trained)
        if self.reference.moves:
            moved = self.adaptation.weights(self.behaviours["reference"])
            weights = weights | {f"{PREFIX}{name}": value for name, value in moved.items()}
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        own = {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
        self.adaptation.restore(self.trained, own)
        if self.reference.moves:
            moved = {name.removeprefix(PREFIX): value for name, value in weights.items() if name not in own}
            self.adaptation.restore(self.behaviours["reference"], moved)

    def updated(self, step: int) -> None:
        """Let the reference follow."""
        if self.reference.moves:
            mine, policy = (
                [parameter.data for parameter in self.adaptation.parameters(each)]
                for each in (self.behaviours["reference"], self.trained)
            )
            self.reference.follow(step, mine, policy)

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's prediction, with gradient."""
        return self.backbone.predict(self.denoiser, x_t, t, condition)

    @torch.no_grad()
    def frozen(self, x_t: Tensor, t: Tensor, condition: Condition, who: str = "reference") -> Tensor:
        """The prediction of a frozen policy.

        Raises:
            ValueError: There is no policy of that name.
        """
        if who not in self.behaviours:
            raise ValueError(f"no frozen policy {who!r}: only {', '.join(self.behaviours)}")
        with self.behaviours[who].open() as network:
            return self.backbone.predict(network, x_t, t, condition)


PREFIX = "reference/"
"""Of a moving reference's weights in a checkpoint."""
