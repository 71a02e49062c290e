"""Some pairs in memory, and what training needs of many: their rows by place, and groups of them to draw from."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.marks import Marks


class States(NamedTuple):
    """K states of each of N pairs that the sampler visited, at the same times on both sides.

    Attributes:
        times: On the model's clock, [N, K] float32.
        latents: x_t of both sides in model space, [N, K, ...].
    """

    times: Tensor
    latents: Pair[Tensor]

    def named(self) -> dict[str, Tensor]:
        """All of them by their names in a store."""
        return {"times": self.times, **{f"{side}_states": part for side, part in self.latents._asdict().items()}}

    @classmethod
    def cat(cls, parts: Sequence["States"]) -> "States | None":
        """Those of several batches of pairs; None of none."""
        if not parts:
            return None
        sides = zip(*(part.latents for part in parts), strict=True)
        return cls(torch.cat([part.times for part in parts]), Pair(*map(torch.cat, sides)))

    def take(self, rows: Sequence[int]) -> "States":
        """Those of some pairs."""
        return States(self.times[rows], self.latents.map(lambda side: side[rows]))


class Texts(NamedTuple):
    """Of some pairs: ids, prompts, and degraded prompts if there are any."""

    ids: Sequence[str]
    prompts: Sequence[str]
    degraded: Sequence[str] | None


class Holding(Protocol):
    """What pairs come with: those that are there, and those that a recipe will make."""

    @property
    @abstractmethod
    def has_degraded(self) -> bool:
        """Whether each pair has a degraded prompt."""

    @property
    @abstractmethod
    def has_states(self) -> bool:
        """Whether the sampler's states come with each pair."""

    @property
    @abstractmethod
    def has_scores(self) -> bool:
        """Whether each pair has scores of both sides."""

    @property
    @abstractmethod
    def has_labels(self) -> bool:
        """Whether they are single samples, each wanted or not, in place of pairs."""

    @property
    @abstractmethod
    def has_seeds(self) -> bool:
        """Whether the seeds are known that they were sampled from."""

    @property
    @abstractmethod
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that there are; the only one stands for both."""


class Pairs(Holding, ABC):
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
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that there are; the only one stands for both."""
        return Pair._fields

    @abstractmethod
    def take(self, rows: Sequence[int]) -> "PairData":
        """Some pairs, in the order of `rows`."""

    @abstractmethod
    def texts_of(self, rows: Sequence[int]) -> Texts:
        """The texts of some pairs, in the order of `rows`; no latent is copied."""

    @abstractmethod
    def prompts_of(self, shard: int) -> Sequence[str]:
        """The prompts of a shard, in order."""

    @abstractmethod
    def verify(self, shape: Sequence[int], process: int = 0, processes: int = 1) -> None:
        """See that they can be trained on: latents of this shape, all of them finite, and no id twice.

        Raises:
            InputError: They cannot.
        """

    @abstractmethod
    def texts(self, *, degraded: bool) -> Iterator[str]:
        """Every prompt, and every degraded prompt if they are asked for, with repetitions."""

    def __len__(self) -> int:
        return sum(self.sizes)

    def each_prompt(self) -> Iterator[str]:
        """All prompts, shard by shard."""
        for shard in range(len(self.sizes)):
            yield from self.prompts_of(shard)

    @staticmethod
    def _check_shape(own: Sequence[int], wanted: Sequence[int]) -> None:
        if tuple(own) != tuple(wanted):
            raise InputError(
                f"pairs: latents are {list(own)}, and the model's are {list(wanted)}: "
                "they are of another model or resolution: make pairs with this one"
            )


@dataclass(frozen=True)
class PairData(Pairs):
    """Pairs in memory: ids, prompts, degraded prompts if there are any, and latents in model space, [N, ...] each.

    `states` are those that the sampler visited, if any were kept, `marks` what else is known.
    """

    ids: Sequence[str]
    prompts: Sequence[str]
    degraded: Sequence[str] | None
    latents: Pair[Tensor]
    states: States | None = None
    marks: Marks = field(default_factory=Marks)

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

    @property
    def has_states(self) -> bool:
        """Whether they have states."""
        return self.states is not None

    @property
    def has_scores(self) -> bool:
        """Whether they have a gap of scores."""
        return self.marks.gap is not None

    @property
    def has_labels(self) -> bool:
        """Whether they have labels."""
        return self.marks.label is not None

    @property
    def has_seeds(self) -> bool:
        """Whether they have seeds."""
        return self.marks.seeds is not None

    def take(self, rows: Sequence[int]) -> "PairData":
        """Some of them."""
        places = list(rows)
        states = self.states.take(places) if self.states is not None else None
        latents, marks = self.latents.map(lambda side: side[places]), self.marks.take(places)
        return PairData(*self.texts_of(places), latents, states, marks)

    def texts_of(self, rows: Sequence[int]) -> Texts:
        """Of some of them."""
        degraded = [self.degraded[row] for row in rows] if self.degraded is not None else None
        return Texts([self.ids[row] for row in rows], [self.prompts[row] for row in rows], degraded)

    def prompts_of(self, shard: int) -> Sequence[str]:
        """All prompts."""
        return self.prompts

    def verify(self, shape: Sequence[int], process: int = 0, processes: int = 1) -> None:
        """All at once."""
        self._check_shape(self.latents.win.shape[1:], shape)
        for name, times in Counter(self.ids).items():
            if times > 1:
                raise InputError(f"pairs: id {name!r:.80} is there twice: make ids unique")
        parts = self.latents._asdict() | (self.states.named() if self.states is not None else {})
        for side, part in parts.items():
            finite = part.isfinite().flatten(1).all(1)
            if not finite.all():
                raise InputError(f"pairs: {side} of {self.ids[int(finite.int().argmin())]!r:.80} is not finite")

    def texts(self, *, degraded: bool) -> Iterator[str]:
        """Prompts, then degraded ones."""
        yield from self.prompts
        yield from (self.degraded or ()) if degraded else ()
