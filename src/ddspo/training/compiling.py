"""The repeated blocks of a denoiser, compiled: fewer and larger kernels, and other rounding."""

from collections.abc import Iterable

import torch
from torch import nn

VARIANTS = 64
"""Ways in which one block may be called: adapters on and off, with and without gradient, sizes of batches."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """Compile each repeated block of a diffusers network in place, or all of it where its class names none.

    It is compiled when it is first called, once for each way of calling it; whatever cannot be traced runs as before.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    blocks = _repeated(network)
    for block in blocks or [network]:
        block.compile(backend=backend)


def as_before(networks: Iterable[nn.Module]) -> None:
    """Undo `compile_blocks`."""
    for network in networks:
        for module in network.modules():
            module._compiled_call_impl = None


def _repeated(network: nn.Module) -> list[nn.Module]:
    from diffusers import ModelMixin

    names = (network._repeated_blocks if isinstance(network, ModelMixin) else None) or ()
    return [module for module in network.modules() if type(module).__name__ in names]
