"""The paper's superscripts w and l as one type."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
S = TypeVar("S")


class Pair(NamedTuple, Generic[T]):
    """A winning and a losing thing of one kind."""

    win: T
    lose: T

    def map(self, function: Callable[[T], S]) -> "Pair[S]":
        """Apply a function to both."""
        return Pair(function(self.win), function(self.lose))


def cat(pair: Pair[Tensor]) -> Tensor:
    """Stack [B, ...] and [B, ...] into one batch [2B, ...], winners first."""
    return torch.cat([pair.win, pair.lose])


def split(batch: Tensor) -> Pair[Tensor]:
    """Undo `cat`: [2B, ...] into two of [B, ...].

    Raises:
        ValueError: The batch has an odd length.
    """
    if len(batch) % 2:
        raise ValueError(f"a batch of pairs has an even length, not {len(batch)}")
    win, lose = batch.chunk(2)
    return Pair(win, lose)
