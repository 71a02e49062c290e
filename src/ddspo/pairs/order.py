"""A shuffle that holds a few shards at a time and whose every position can be computed alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddspo import randomness

Places = NDArray[np.int64]


class Windows(NamedTuple):
    """One visit's groups of shards in order, where in the visit each group ends, and which group each shard is in."""

    shards: Sequence[Places]
    ends: Places
    of: Places


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

    sizes: tuple[int, ...] = field(hash=False)
    window: int
    seed: int

    def rows(self, first: int, count: int) -> list[tuple[int, int]]:
        """The (pair, visit) at `count` positions of training, from `first` on, counted from 0."""
        found: list[tuple[int, int]] = []
        while len(found) < count:
            visit, place = divmod(first + len(found), int(self._starts[-1]))
            windows = _windows(self, visit)
            number = int(np.searchsorted(windows.ends, place, side="right"))
            begin, end = (int(windows.ends[number - 1]) if number else 0), int(windows.ends[number])
            here = slice(place - begin, min(end - begin, place - begin + count - len(found)))
            rows = self._permuted(visit, number, end - begin)[here]
            found += [(row, visit) for row in self._numbers(windows.shards[number], rows).tolist()]
        return found

    def _permuted(self, visit: int, number: int, size: int) -> Places:
        # The first window's seed does not name it: a store of one window is shuffled as one table.
        return randomness.permutation(
            size, randomness.stable_seed(self.seed, visit, "order", *([number] if number else []))
        )

    def _numbers(self, shards: Places, inside: Places) -> Places:
        """Numbers of pairs from their places in some shards, laid end to end."""
        ends = np.cumsum(self._sizes[shards])
        which = np.searchsorted(ends, inside, side="right")
        return self._starts[shards[which] + 1] - ends[which] + inside

    def beside(self, row: int, visit: int) -> tuple[int, ...]:
        """The shards that are in memory when a pair is visited, its own among them."""
        shard, windows = int(np.searchsorted(self._starts, row, side="right")) - 1, _windows(self, visit)
        return tuple(windows.shards[windows.of[shard]].tolist())

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
        shards = np.random.default_rng(randomness.stable_seed(order.seed, visit, "shards")).permutation(count)
    groups = [np.sort(shards[first : first + order.window]) for first in range(0, count, order.window)]
    of = np.empty(count, np.int64)
    of[shards] = np.arange(count) // order.window
    return Windows(groups, np.cumsum([sum(order.sizes[shard] for shard in group) for group in groups]), of)
