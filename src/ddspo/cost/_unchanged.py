"""A backbone that is trained for a moment, and afterwards is as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ddspo.backbones.base import Backbone


@contextmanager
def unchanged(backbone: Backbone) -> Iterator[None]:
    """Inside, its denoiser may get adapters, be copied, cast, or recompute activations; weights must not be updated.

    Afterwards each layer is where it was, and each weight in its precision, to the bit: a cast to single precision
    loses nothing, and neither does the way back.
    """
    network: Any = backbone.denoiser
    layers = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
    weights = [(each, each.dtype, each.requires_grad) for each in network.parameters()]
    buffers = [
        (module, name, each) for module in network.modules() for name, each in module.named_buffers(recurse=False)
    ]
    attributes = set(vars(network))
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()
        for parent, name, child in layers:
            setattr(parent, name, child)
        for name in set(vars(network)) - attributes:
            delattr(network, name)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
        for weight, dtype, flag in weights:
            weight.data, weight.grad = weight.data.to(dtype), None
            weight.requires_grad_(flag)
        setattr(backbone.pipeline, backbone.denoiser_name, network)
