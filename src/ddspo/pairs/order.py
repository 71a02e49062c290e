"""A shuffle that holds a few shards at a time and whose every position can be computed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddspo import draws

Places = NDArray[np.int64]


class Windows(NamedTuple):
    """One visit's groups of shards, in the order in which they are visited, and where in the visit each ends."""

    shards: Sequence[Places]
    ends: Places


@dataclass(frozen=True)
class Order:
    """Every pair once, in a new order, before any comes again: a function of seed and position alone.

    On each visit the shards are permuted and put into windows of a few, and the pairs of each window are permuted.
    Where one window holds everything that is a plain permutation.

    Attributes:
        sizes: Pairs of each shard.
        window: Shards in a window.
        seed: Whose order it is.
    """

    sizes: tuple[int, ...]
    window: int
    seed: int

    def row(self, position: int) -> tuple[int, int]:
        """The (pair, visit) at a position of training, counted from 0."""
        visit, place = divmod(position, int(self._starts[-1]))
        windows = _windows(self, visit)
        number = int(np.searchsorted(windows.ends, place, side="right"))
        shards, first = windows.shards[number], int(windows.ends[number - 1]) if number else 0
        # The first window's seed does not name it: a store of one window is shuffled as one table.
        seed = draws.stable_seed(self.seed, visit, "order", *([number] if number else []))
        inside = draws.permutation(int(windows.ends[number]) - first, seed)[place - first]
        ends = np.cumsum(self._sizes[shards])
        which = int(np.searchsorted(ends, inside, side="right"))
        return int(self._starts[shards[which] + 1] - ends[which] + inside), visit

    def beside(self, row: int, visit: int) -> tuple[int, ...]:
        """The shards that are in memory when a pair is visited, its own among them."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return next(tuple(each.tolist()) for each in _windows(self, visit).shards if shard in each)

    @cached_property
    def _sizes(self) -> Places:
        return np.asarray(self.sizes, np.int64)

    @cached_property
    def _starts(self) -> Places:
        """Number of each shard's first pair, and of all pairs."""
        return np.concatenate([[0], np.cumsum(self._sizes)])


@lru_cache(maxsize=4)
def _windows(order: Order, visit: int) -> Windows:
    count = len(order.sizes)
    shards = np.arange(count)
    if count > order.window:
        shards = np.random.default_rng(draws.stable_seed(order.seed, visit, "shards")).permutation(count)
    groups = [np.sort(shards[first : first + order.window]) for first in range(0, count, order.window)]
    return Windows(groups, np.cumsum([sum(order.sizes[shard] for shard in group) for group in groups]))
