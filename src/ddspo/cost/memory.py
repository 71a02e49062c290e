"""Memory of the accelerator while a stage trains: bytes of shapes on the "meta" device.

The networks are built there, where a tensor has a shape and no memory, and the adaptation is attached to them as
training attaches it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Doc

from ddspo import components
from ddspo.adaptations.base import Behaviour
from ddspo.backbones._outline import outline
from ddspo.backbones._residence import TEXTS, other_parts
from ddspo.backbones.base import Backbone, Model
from ddspo.maths.pair import Pair
from ddspo.recipe import Recipe
from ddspo.training.optimisation import Optimisation
from ddspo.training.policies import Policies
from ddspo.training.texts import Encode

D = TypeVar("D", bound="Device")

BRANCHES = len(Pair._fields)


@dataclass(frozen=True)
class Device:
    """Accelerator memory while training, for each process (without activations)"""

    frozen_bytes: Annotated[int, Doc("frozen weights of the denoiser: base or reference, winner, loser")]
    others_bytes: Annotated[
        int,
        Doc("text encoders with train.encode=during; all beside it where pictures or pairs are made on the way"),
    ]
    trained_bytes: Annotated[int, Doc("trained weights, in single precision")]
    gradients_bytes: Annotated[int, Doc("their gradients")]
    optimizer_bytes: Annotated[int, Doc("AdamW's two moments of each")]
    average_bytes: Annotated[int, Doc("the moving average of the trained weights, if one is kept")]
    total_bytes: Annotated[
        int, Doc("sum, or the whole model at the start; activations come on top and grow with train.device_batch")
    ]


class PretrainingDevice(Device):
    """Accelerator memory while pretraining winner and loser, for each process (without activations)"""


def model_outline(model: Model) -> Backbone:
    """A recipe's model without weights; of a hub id only configurations and tokenizers are fetched.

    Raises:
        InputError: There is no such model, or its files cannot be read.
    """
    return outline(components.backbone_of(model), model)


def in_training(recipe: Recipe, backbone: Backbone) -> Device:
    """Memory of the `train` stage; the outline is changed as training changes a backbone."""
    base, others = network_size(backbone.denoiser), others_bytes(backbone)
    with torch.device("meta"):
        policies = Policies.of(backbone, recipe.adaptation, seed=0, reference=recipe.reference)
    held = [policies.trained, *policies.behaviours.values()]
    beside = 0
    if recipe.pretrains:
        whole = recipe.pretrain.adaptation.saves_pipeline
        beside = BRANCHES * base if whole else in_pretraining(recipe).trained_bytes
    trained = size(parameter for group in policies.groups().values() for parameter in group)
    samples = bool(recipe.validation.every or recipe.on_policy)
    return _device(Device, Held(held, trained, beside), recipe.train, Parts(base, others, samples))


def in_pretraining(recipe: Recipe) -> PretrainingDevice:
    """Memory of the `pretrain` stage."""
    backbone, adaptation = model_outline(recipe.model), recipe.pretrain.adaptation
    parts = Parts(network_size(backbone.denoiser), others_bytes(backbone))
    with torch.device("meta"):
        pair = adaptation.fork(backbone, Pair(0, 0))
    trained = size(parameter for each in pair for parameter in adaptation.parameters(each))
    return _device(PretrainingDevice, Held(pair, trained), recipe.pretrain.train, parts)


def others_bytes(backbone: Backbone) -> dict[str, int]:
    """Bytes of text encoders and autoencoder, by their names."""
    return {name: network_size(part) for name, part in other_parts(backbone).items()}


@dataclass(frozen=True)
class Held:
    """What a stage holds of the denoiser: behaviours, bytes that are trained, and frozen bytes beside."""

    behaviours: Iterable[Behaviour]
    trained: int
    beside: int = 0


@dataclass(frozen=True)
class Parts:
    """Bytes of a model as it is loaded: its denoiser, and the parts beside, all of which sampling on the way needs."""

    base: int
    others: dict[str, int]
    samples: bool = False

    def beside(self, encode: Encode) -> int:
        """Of the parts beside the denoiser, those that are on the accelerator in training."""
        if self.samples:
            return sum(self.others.values())
        texts = sum(size for name, size in self.others.items() if name.startswith(TEXTS))
        return texts if encode == "during" else 0


def _device(kind: type[D], held: Held, settings: Optimisation, parts: Parts) -> D:
    """Bytes of all networks that some behaviour uses, each once, and of what training adds to them."""
    networks = {id(each.network): each.network for each in held.behaviours}.values()
    trained, average = held.trained, held.trained if settings.average else 0
    frozen = sum(map(network_size, networks)) - trained + held.beside
    others, start = parts.beside(settings.encode), parts.base + sum(parts.others.values())
    return kind(
        frozen_bytes=frozen,
        others_bytes=others,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=2 * trained,
        average_bytes=average,
        total_bytes=max(frozen + others + 4 * trained + average, start),
    )


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(each.numel() * each.element_size() for each in tensors)


def network_size(network: nn.Module) -> int:
    """Bytes of a network: its weights and its buffers, such as tables of positions."""
    return size([*network.parameters(), *network.buffers()])
