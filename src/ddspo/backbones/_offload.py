"""Frozen weights that wait in main memory: a layer has its own on the accelerator while it runs, and only then.

diffusers' group offloading moves all that a block holds, also adapters that an optimizer trains, and leaves a block
where it is when its recomputation ends early. So it is not used, and layers are served one by one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ddspo.backbones._quantize import block_layers

SERVED = (nn.Linear, nn.Conv2d)


class Serving:
    """Hooks of one layer: its weight comes where the input is, and goes when it has run or failed."""

    def __init__(self, layer: nn.Module) -> None:
        self.waiting: nn.Parameter | None = None
        layer.register_forward_pre_hook(self.come)
        layer.register_forward_hook(self.go, always_call=True)

    def come(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        """A copy, which autograd keeps for as long as it needs it."""
        self.waiting = layer.weight
        moved = layer.weight.to(inputs[0].device)
        layer.weight = moved if isinstance(moved, nn.Parameter) else nn.Parameter(moved, requires_grad=False)

    def go(self, layer: Any, inputs: object, output: object) -> None:
        """What waited is in its place again."""
        if self.waiting is not None:
            layer.weight, self.waiting = self.waiting, None


def serve(network: Any) -> None:
    """Let the weights in a network's blocks wait where they are from now on, and come when they are needed."""
    network.hf_device_map = {"": "accelerator", "blocks": "main memory"}  # or else accelerate would move it whole
    for _, layer in block_layers(network, SERVED):
        Serving(layer)


@contextmanager
def apart(network: nn.Module) -> Iterator[None]:
    """Inside, the network is without those weights, and so can be moved."""
    waiting = [(layer, layer.weight) for _, layer in block_layers(network, SERVED)]
    for layer, weight in waiting:
        layer.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in waiting:
            layer.weight = weight
