"""Some pairs in memory, and what training needs of many: their rows by place, and groups of them to draw from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddspo.maths.pair import Pair


class Pairs(ABC):
    """Any number of pairs, numbered from 0, in consecutive shards."""

    @property
    @abstractmethod
    def sizes(self) -> Sequence[int]:
        """Pairs of each shard."""

    @property
    @abstractmethod
    def window(self) -> int:
        """Shards that may be in memory at once: pairs are shuffled among so many."""

    @property
    @abstractmethod
    def has_degraded(self) -> bool:
        """Whether each pair has a degraded prompt."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> "PairData":
        """Some pairs, in the order of `rows`."""

    @abstractmethod
    def prompts_of(self, shard: int) -> Sequence[str]:
        """The prompts of a shard, in order."""

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Every text whose condition a step may need, with repetitions."""

    def __len__(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class PairData(Pairs):
    """Pairs in memory: ids, prompts, degraded prompts if there are any, and latents in model space, [N, ...] each."""

    ids: Sequence[str]
    prompts: Sequence[str]
    degraded: Sequence[str] | None
    latents: Pair[Tensor]

    @property
    def sizes(self) -> Sequence[int]:
        """All are one shard."""
        return [len(self.ids)]

    @property
    def window(self) -> int:
        """That shard."""
        return 1

    @property
    def has_degraded(self) -> bool:
        """Whether they have degraded prompts."""
        return self.degraded is not None

    def take(self, rows: Sequence[int]) -> "PairData":
        """Some of them."""
        places = list(rows)
        degraded = [self.degraded[row] for row in places] if self.degraded is not None else None
        return PairData(
            [self.ids[row] for row in places],
            [self.prompts[row] for row in places],
            degraded,
            self.latents.map(lambda side: side[places]),
        )

    def prompts_of(self, shard: int) -> Sequence[str]:
        """All prompts."""
        return self.prompts

    def texts(self) -> Iterator[str]:
        """Prompts, then degraded ones."""
        yield from self.prompts
        yield from self.degraded or ()
