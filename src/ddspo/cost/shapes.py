"""Shapes and bytes of a model that has no weights."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ddspo import components
from ddspo.backbones._offload import SERVED
from ddspo.backbones._outline import outline
from ddspo.backbones._quantize import block_layers, stored_bytes, weight_bytes
from ddspo.backbones.base import Backbone, Model
from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.pairs.view import View
from ddspo.training.drawing import Drawing

BRANCHES = len(Pair._fields)


def model_outline(model: Model) -> Backbone:
    """A recipe's model without weights; of a hub id only configurations and tokenizers are fetched.

    Raises:
        InputError: There is no such model, or its files cannot be read.
    """
    return outline(components.backbone_of(model), model)


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(each.numel() * each.element_size() for each in tensors)


def network_size(network: nn.Module) -> int:
    """Bytes of a network: its weights and its buffers, such as tables of positions."""
    return size([*network.parameters(), *network.buffers()])


class Base(NamedTuple):
    """Bytes of a denoiser's weights at work.

    Attributes:
        stays: On the accelerator all the time.
        passes: There for a moment: the largest layer, made whole of its rounded weights, and the block that is at work
            where weights wait elsewhere.
        waits: In main memory meanwhile.
    """

    stays: int
    passes: int
    waits: int


def base_of(network: nn.Module, model: Model) -> Base:
    """What the weights of a model's denoiser take, quantised or waiting; it has no adapter yet."""
    how = model.quantize
    every = stored_bytes(network, how) if how else network_size(network)
    linear = [layer.weight for _, layer in block_layers(network, (nn.Linear,))]
    whole = max((size([each]) for each in linear), default=0) if how else 0
    if not model.offload:
        return Base(every, whole, 0)
    served, blocks = 0, defaultdict[str, int](int)
    for name, layer in block_layers(network, SERVED):
        taken = weight_bytes(layer.weight, how) if how and isinstance(layer, nn.Linear) else size([layer.weight])
        served += taken
        blocks[block_of(name)] += taken
    return Base(every - served, whole + max(blocks.values(), default=0), served)


def block_of(name: str) -> str:
    """The block of a layer: its name up to the first number."""
    parts = name.split(".")
    return ".".join(parts[: next(place for place, part in enumerate(parts) if part.isdigit()) + 1])


def condition_shapes(backbone: Backbone) -> Condition:
    """Shapes of one text's condition. Fake tensors, because text encoders look into the values of others' masks."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = backbone.encode(["a prompt"])
    return {name: torch.empty(row.shape, dtype=row.dtype, device="meta") for name, row in rows.items()}


def view_of(backbone: Backbone, drawing: Drawing, condition: Condition, pairs: int) -> View:
    """A batch of pairs, all zeros, on the backbone's device, as a step sees it; every text has one condition."""
    device = backbone.device

    def latents() -> Tensor:
        return torch.zeros(pairs, *backbone.latent_shape, device=device)

    win, noise = latents(), latents()
    x = Pair(win, win if drawing.one_state else latents())
    rows = {name: row.repeat(pairs, *[1] * (row.ndim - 1)) for name, row in condition.items()}
    degraded = {name: row.clone() for name, row in rows.items()}
    t = backbone.path.times(torch.full((pairs,), 0.5, device="cpu")).to(device)
    gap, mean = torch.zeros(pairs, device=device), torch.zeros((), device=device)
    return View(x, Pair(noise, noise), t, x, rows, degraded, backbone.path, gap=gap, mean=mean)
