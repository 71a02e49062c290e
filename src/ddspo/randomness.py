"""Random draws that depend on what they are for, never on who makes them or when.

Every draw comes from a stable hash of the run's seed, the item and the purpose, so process count, batch size and
resuming change nothing.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed from a run seed, an item and a purpose; the same on every machine and in every release."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def normal(seeds: Sequence[int], shape: Sequence[int]) -> "Tensor":
    """Standard normal noise, one seed a row: [len(seeds), *shape] float32, drawn on the CPU.

    By numpy, because torch's generator there keeps 32 bits of a seed.
    """
    import torch

    rows = [np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *shape)


def uniform(seeds: Sequence[int]) -> "Tensor":
    """Numbers in [0, 1), one seed each: [len(seeds)] float64."""
    import torch

    return torch.tensor([np.random.default_rng(seed).random() for seed in seeds], dtype=torch.float64)


@lru_cache(maxsize=2)
def permutation(length: int, seed: int) -> np.ndarray:
    """A random order of range(length), read-only."""
    order = np.random.default_rng(seed).permutation(length)
    order.setflags(write=False)
    return order
