"""The head that the aesthetic score and ImageReward share: linear layers one after another, nothing between them."""

import re
from collections.abc import Mapping

import torch
from torch import nn

from ddspo.errors import InputError


def head(where: str, weights: Mapping[str, torch.Tensor], width: int) -> nn.Sequential:
    """The layers `layers.0`, `layers.2` ... of some weights, in that order and in float32: [N, width] to [N, 1].

    The numbers between are dropout, which does nothing once training is over. There are no activations.

    Raises:
        InputError: There are none, or one does not fit on the next.
    """
    numbers = sorted(int(found[1]) for name in weights if (found := re.fullmatch(r"layers\.(\d+)\.weight", name)))
    matrices = [weights[f"layers.{number}.weight"] for number in numbers]
    joints = [(each.shape[-1], each.shape[0]) for each in matrices]
    fits = [width, *(out for _, out in joints)] == [*(into for into, _ in joints), 1]
    if not fits or any(f"layers.{number}.bias" not in weights for number in numbers):
        raise InputError(f"{where}: its layers do not lead from {width} numbers to one: get its files anew")
    return nn.Sequential(
        *(_linear(each, weights[f"layers.{number}.bias"]) for number, each in zip(numbers, matrices, strict=True))
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(each.float(), requires_grad=False) for each in (weight, bias))
    return layer
