"""Bytes that are alive at once while a function computes on the "meta" device, where tensors have shapes alone."""

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOWER = {
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, torch.einsum),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
}
"""What CUDA's autocast computes in half precision, of what networks of images call."""
SINGLE = {
    *(F.layer_norm, F.group_norm, F.rms_norm, F.softmax, F.softplus, F.mse_loss),
    *(torch.layer_norm, torch.group_norm, torch.rms_norm, torch.softmax),
    *(torch.pow, torch.rsqrt, torch.exp, torch.log, torch.reciprocal),
    *(Tensor.softmax, Tensor.pow, Tensor.__pow__, Tensor.rsqrt, Tensor.exp, Tensor.log, Tensor.reciprocal),
}
"""And what in single precision."""


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, each from there until nothing holds it; views make none.

    Attributes:
        now: Bytes that are alive.
        peak: The most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        with torch._C.DisableTorchFunction():  # or an operation's own shape function would go through every mode
            out = func(*args, **(kwargs or {}))
        if _makes(func):
            for each in (out,) if isinstance(out, Tensor) else tree_leaves(out):
                if isinstance(each, Tensor):
                    self._count(each.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def gone(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class Accelerator(TorchFunctionMode):
    """Computes as an accelerator would: attention without its matrix, and under autocast, in the precision it chooses.

    Autocast knows no "meta" device. As there, a trained weight is cast once inside the block.

    Args:
        dtype: Autocast's precision; None: there is none.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._casts: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, with its tensors cast."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self.dtype and (func in LOWER or func in SINGLE):
            cast = self._lower if func in LOWER else _single
            return func(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})
        return func(*args, **kwargs)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """A fused kernel keeps its inputs, its output and a number a row."""
        rows = (self._lower(each) for each in (query, key, value)) if self.dtype else (query, key, value)
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        found: Tensor = fused(*rows, attn_mask=attn_mask)[0]
        return found

    def _lower(self, value: Any) -> Any:
        if not _is_number(value) or value.dtype == self.dtype:
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self.dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(self.dtype)
        return self._casts[id(value)]

    def __exit__(self, *args: Any) -> None:
        self._casts.clear()
        super().__exit__(*args)  # type: ignore[no-untyped-call]


def peak_of(function: Callable[[], object]) -> int:
    """The most bytes that a function holds at once of what it makes; what was there before is not among them."""
    with Live() as live:
        kept = function()
        del kept
    return live.peak


@cache
def _makes(func: Any) -> bool:
    """Whether an operation's results are new: neither views nor its own arguments."""
    return not any(each.alias_info is not None for each in func._schema.returns)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64


def _single(value: Any) -> Any:
    return value.float() if _is_number(value) else value
