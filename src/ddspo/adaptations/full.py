"""All weights of the denoiser; a frozen copy is the reference."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddspo.adaptations.base import Adaptation, Attached, Behaviour
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.maths.pair import Pair


@dataclass(frozen=True)
class Full(Adaptation):
    """Full fine-tuning: the denoiser in float32 and a frozen copy in the model's own precision."""

    saves_pipeline = True

    def attach(self, backbone: Backbone, seed: int, *, frozen: bool = True) -> Attached:
        """Copy the reference, if it is needed, then train everything."""
        _check(backbone)
        copied = Behaviour(copy.deepcopy(backbone.denoiser).requires_grad_(False).eval()) if frozen else None
        return Attached(_trainable(backbone.denoiser), copied)

    def fork(self, backbone: Backbone, seeds: Pair[int]) -> Pair[Behaviour]:
        """The denoiser itself and one copy."""
        _check(backbone)
        win = _trainable(backbone.denoiser)
        return Pair(win, Behaviour(copy.deepcopy(win.network)))

    def frozen(self, backbone: Backbone, reference: Behaviour, name: str, folder: Path) -> Behaviour:
        """One more network, in the reference's precision."""
        dtype = next(reference.network.parameters()).dtype
        return Behaviour(_read(backbone, folder, dtype).requires_grad_(False).eval())

    def twin(self, backbone: Backbone, policy: Behaviour, name: str) -> Behaviour:
        """One more network in float32: in half precision a slow average would not move."""
        return Behaviour(copy.deepcopy(policy.network).requires_grad_(False).eval())

    def parameters(self, behaviour: Behaviour) -> list[nn.Parameter]:
        """Every parameter."""
        return list(behaviour.network.parameters())

    def weights(self, behaviour: Behaviour) -> dict[str, Tensor]:
        """Every weight."""
        return behaviour.network.state_dict()

    def restore(self, behaviour: Behaviour, weights: dict[str, Tensor]) -> None:
        """Put every weight back."""
        behaviour.network.load_state_dict(weights)

    def save(
        self,
        backbone: Backbone,
        folder: Path,
        behaviour: Behaviour | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the whole pipeline folder."""
        own = backbone.denoiser
        network = behaviour.network if behaviour else own
        _use(backbone, network if weights is None else _assembled(network, weights))
        try:
            backbone.save(folder)
        finally:
            _use(backbone, own)

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Take the denoiser of the saved folder."""
        own: Any = backbone.denoiser
        _use(backbone, _read(backbone, folder, own.dtype))


def _check(backbone: Backbone) -> None:
    if backbone.quantized or backbone.offload:
        raise InputError(
            "adaptation full: it trains the weights that model.quantize rounds and model.offload moves: use lora"
        )


def _trainable(network: nn.Module) -> Behaviour:
    return Behaviour(network.to(torch.float32).requires_grad_(True))


def _read(backbone: Backbone, folder: Path, dtype: torch.dtype) -> nn.Module:
    kind: Any = type(backbone.denoiser)
    return kind.from_pretrained(folder / backbone.denoiser_name, dtype=dtype).to(backbone.device)


def _assembled(network: Any, weights: dict[str, Tensor]) -> nn.Module:
    """A network of the same kind, as it was before FSDP2 put a class of its own before it, around given weights."""
    from torch.distributed.fsdp import FSDPModule

    kind: Any = next(each for each in type(network).__mro__ if not issubclass(each, FSDPModule))
    with torch.device("meta"):
        made = kind.from_config(network.config)
    made.load_state_dict(weights, assign=True)
    return cast(nn.Module, made)


def _use(backbone: Backbone, network: nn.Module) -> None:
    setattr(backbone.pipeline, backbone.denoiser_name, network)
