"""Frozen weights in 8 or 4 bits: those of the linear layers in a network's blocks, where nearly all of them are.

What comes in and what goes out (embeddings, the last projection), norms, biases and convolutions stay as they are.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddspo.backbones._model import Quantization
from ddspo.errors import InputError

KINDS = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""Of 8 bits: what a weight is kept as, and the largest that it holds."""
BLOCK, OUTER = 64, 256
"""Of nf4: weights that share a scale of 8 bits, and such scales that share one in float32 (Dettmers et al. 2023)."""
TABLES = 4 * (16 + 256 + 1)
"""Of nf4: bytes of a layer's 16 levels, of the 256 levels of its scales, and of their mean."""


class EightBits(nn.Linear):
    """A frozen linear layer, y = (s * Q) x + b: Q in 8 bits [outputs, inputs], a scale s for each output.

    `weight` is Q, read as int8 whichever it is: adapters take the type of a layer's weight for their own, and know
    that int8 is none.
    """

    scale: Tensor

    def __init__(self, layer: nn.Linear, how: Quantization, device: torch.device) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.kind, most = KINDS[how]
        weight = layer.weight.detach().to(device)
        scale = (weight.abs().amax(1, keepdim=True) / most).clamp(min=torch.finfo(weight.dtype).tiny)
        rounded = (weight.float() / scale.float()).clamp(-most, most)
        rounded = (rounded.round() if how == "int8" else rounded).to(self.kind).view(torch.int8)
        self.weight = nn.Parameter(rounded.to(layer.weight.device), requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("scale", scale.to(layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return _Product.apply(x, self.weight.view(self.kind), self.scale, self.bias)  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """y = (s * Q) x + b, of which the backward pass finds Q again: s * Q itself is as large as before rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""
        ctx.save_for_backward(weight, scale)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return functional.linear(x, _whole(weight, scale, dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Of the input alone."""
        (gradient,), (weight, scale) = gradients, ctx.saved_tensors
        return gradient @ _whole(weight, scale, gradient.dtype), None, None, None


def _whole(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).mul_(scale.to(dtype))


def _four_bits(layer: nn.Linear, how: Quantization, device: torch.device) -> nn.Linear:
    """bitsandbytes' own layer: 16 levels at the quantiles of a normal distribution, scales quantised once more."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    given: Any = {"quant_type": how, "compress_statistics": True}
    four: Any = Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=layer.weight.dtype, device="meta", **given
    )
    weight: Any = Params4bit(layer.weight.detach(), requires_grad=False, module=four, **given)
    four.weight, four.bias = weight.to(device).to(layer.weight.device), layer.bias
    # Or else, on some processors, weights are laid out anew at the first pass without gradient, and none flows then.
    four.support_avx512bf16_for_cpu = False
    return four


MAKERS: dict[str, Callable[[nn.Linear, Quantization, torch.device], nn.Linear]] = {
    "int8": EightBits,
    "fp8": EightBits,
    "nf4": _four_bits,
}


def check_quantization(how: Quantization, device: torch.device) -> None:
    """Refuse what cannot be had here.

    Raises:
        InputError: A package is missing, or the device has no such numbers.
    """
    if how == "nf4" and not importlib.util.find_spec("bitsandbytes"):
        raise InputError('model.quantize nf4: bitsandbytes is missing: `pip install "ddspo[quantize]"`, or use int8')
    if how == "fp8" and device.type == "mps":
        raise InputError(f"model.quantize fp8: {device} has no such numbers: use int8")


def quantize(network: nn.Module, how: Quantization) -> None:
    """Round the frozen weights of a network's blocks, in place and layer by layer.

    The work is done on CUDA, where there is one; each layer is where it was afterwards.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else None
    for name in [name for name, _ in block_layers(network, (nn.Linear,))]:
        parent, _, own = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        made = MAKERS[how](layer.requires_grad_(False), how, device or layer.weight.device)
        setattr(network.get_submodule(parent), own, made.train(layer.training))
    if how == "nf4":
        network.is_loaded_in_4bit = True  # type: ignore[assignment]  # by which peft knows bitsandbytes' layers


def block_layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, Any]]:
    """Layers of some kinds in the blocks of a network, which are what its module lists hold, by their names."""
    modules = list(network.named_modules())
    lists = tuple(f"{name}." for name, each in modules if isinstance(each, nn.ModuleList))
    return [(name, each) for name, each in modules if isinstance(each, kinds) and name.startswith(lists)]


def is_quantized(network: nn.Module) -> bool:
    """Whether some of its weights are integers."""
    return not all(parameter.is_floating_point() for parameter in network.parameters())


def compute_dtype(network: nn.Module) -> torch.dtype:
    """What the inputs of a network are cast to: the type of its first weight that is no integer."""
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())


def stored_bytes(network: nn.Module, how: Quantization) -> int:
    """Bytes of the weights and buffers of a network once it is quantised; it may be on "meta"."""
    weights = [layer.weight for _, layer in block_layers(network, (nn.Linear,))]
    rounded = sum(weight_bytes(each, how) for each in weights)
    every = sum(each.numel() * each.element_size() for each in (*network.parameters(), *network.buffers()))
    return every - sum(each.numel() * each.element_size() for each in weights) + rounded


def weight_bytes(weight: Tensor, how: Quantization) -> int:
    """Bytes of one layer's weight once it is quantised, with its scales."""
    return _four_bytes(weight) if how == "nf4" else _eight_bytes(weight)


def _eight_bytes(weight: Tensor) -> int:
    return weight.numel() + weight.shape[0] * weight.element_size()


def _four_bytes(weight: Tensor) -> int:
    blocks = -(-weight.numel() // BLOCK)
    return -(-weight.numel() // 2) + blocks + 4 * -(-blocks // OUTER) + TABLES
