"""The optimizers by name: how each is built, and how many bytes it keeps."""

import contextlib
import importlib.util
import io
import math
from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ddspo.errors import InputError

Name = Literal["adamw", "adamw_8bit", "adafactor", "prodigy", "muon"]

LEAST, BLOCK, CODES = 4096, 256, 256
"""Of bitsandbytes: numbers from which on a tensor is kept in 8 bits, how many share a scale, and levels of these."""
SMALLEST = 0.1
"""The smallest rate that has a meaning for Prodigy, which multiplies a step size of its own by it."""

FOUND = ("d", "d_max", "d_hat", "d_numerator", "d_denom", "k")
"""What Prodigy finds out on the way and keeps beside its state, with the options of its parameters."""
GROUPS = "groups"


class Both(Optimizer):
    """Two optimizers over different parameters, as one: a group of parameters each, and one state."""

    def __init__(self, one: Optimizer, other: Optimizer) -> None:
        self._parts = (one, other)
        super().__init__([*one.param_groups, *other.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def step(self, closure: Any = None) -> Any:
        """Each makes its step."""
        for part in self._parts:
            part.step()

    def _share(self) -> None:
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.state, part.param_groups = self.state, [group]


def check(name: Name, lr: float, where: str) -> None:
    """Refuse what cannot be built, before any long work.

    Args:
        name: The optimizer.
        lr: Its learning rate.
        where: The settings' name in a recipe.

    Raises:
        InputError: A package is missing or too old, or the rate has no meaning for this optimizer.
    """
    if name == "adamw_8bit" and not importlib.util.find_spec("bitsandbytes"):
        raise InputError(f'{where}.optimizer adamw_8bit: bitsandbytes is missing: `pip install "ddspo[quantize]"`')
    if name == "muon" and "Muon" not in torch.optim.__all__:
        raise InputError(f"{where}.optimizer muon: torch {torch.__version__} has none: install 2.9 or newer")
    if name == "prodigy" and lr < SMALLEST:
        raise InputError(
            f"{where}.lr {lr:g}: prodigy finds its own step size, and this is a factor on it: set {where}.lr=1"
        )


def build(name: Name, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """An optimizer of some parameters, with decoupled weight decay.

    Adafactor takes the rate as it is: neither relative to the update's number nor to the size of a parameter. Muon's
    step is 0.2 sqrt(max(rows, columns)) lr times an orthogonal matrix, about as long as AdamW's at the same rate
    (Liu et al. 2025, Muon is Scalable for LLM Training); what is no matrix gets AdamW. Prodigy corrects the bias of
    its averages and leaves the warm-up's rate out of its estimate, as is usual for diffusion models.
    """
    given = list(parameters)
    how: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return cast(Optimizer, AdamW8bit(given, **how))
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return cast(Optimizer, Adafactor(given, **how, scale_parameter=False, relative_step=False))
    if name == "prodigy":
        from prodigyopt import Prodigy

        with contextlib.redirect_stdout(io.StringIO()):  # on which it says that the decay is decoupled
            return cast(Optimizer, Prodigy(given, **how, use_bias_correction=True, safeguard_warmup=True))
    return _muon(given, how) if name == "muon" else AdamW(given, **how)


def _muon(given: list[nn.Parameter], how: dict[str, Any]) -> Optimizer:
    from torch.optim import Muon

    matrices, others = [each for each in given if each.ndim == 2], [each for each in given if each.ndim != 2]
    if not matrices:
        return AdamW(others, **how)
    muon = Muon(matrices, **how, adjust_lr_fn="match_rms_adamw")
    return Both(muon, AdamW(others, **how)) if others else muon


def kept(optimizer: Optimizer) -> dict[Any, Any]:
    """All that a resumed run needs of an optimizer: its state by parameter, and what it found out beside that."""
    both = optimizer.state_dict()
    groups = enumerate(both["param_groups"])
    found = {number: {name: group[name] for name in FOUND if name in group} for number, group in groups}
    return both["state"] | {GROUPS: found}


def put_back(optimizer: Optimizer, state: dict[Any, Any]) -> None:
    """Undo `kept`; rates and other options stay those that the optimizer was built with."""
    both, found = optimizer.state_dict(), state.pop(GROUPS, {})
    groups = [group | found.get(number, {}) for number, group in enumerate(both["param_groups"])]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def state_bytes(name: Name, parameters: Iterable[Tensor]) -> int:
    """Bytes that an optimizer keeps for some parameters, which may be without memory.

    Of Prodigy it is the most: where a parameter began is not kept if that is zero, as half of a LoRA is.
    """
    each = list(parameters)
    tables = 2 * 4 * CODES if name == "adamw_8bit" and any(one.numel() >= LEAST for one in each) else 0
    return tables + sum(_bytes(name, one) for one in each)


def _bytes(name: Name, one: Tensor) -> int:
    """Bytes for one parameter, numbers that are no tensors left out."""
    count, size, step = one.numel(), one.element_size(), 4
    if name == "adamw_8bit":
        return 2 * (count + 4 * math.ceil(count / BLOCK)) if count >= LEAST else 2 * 4 * count
    if name == "adafactor":  # the second moment's rows and columns, and the parameter's root mean square
        kept = count // one.shape[-1] + count // one.shape[-2] if one.ndim >= 2 else count
        return size * (kept + 1)
    if name == "prodigy":
        return 4 * size * count
    return size * count if name == "muon" and one.ndim == 2 else 2 * size * count + step
