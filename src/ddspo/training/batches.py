"""Pairs of latents with their cached conditions, and what is drawn for them at each update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ddspo import randomness
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.maths.paths import NoisePath
from ddspo.pairs.data import PairData, Pairs, Texts
from ddspo.pairs.order import Order
from ddspo.pairs.view import View
from ddspo.training.drawing import PLAIN, Drawing
from ddspo.training.texts import EncodedTexts, TextsOnDemand


class Prompts(NamedTuple):
    """Different prompts: a row that has each, and the place of each among them."""

    rows: Sequence[int]
    places: Mapping[str, int]


@dataclass(frozen=True)
class Batches:
    """The batch of every update, a function of seed, update and item only.

    Attributes:
        data: The pairs.
        conditions: Their encoded texts.
        size: Pairs an update, over all processes.
        seed: The run's seed.
        path: The forward process.
        drawing: How times, noise, latents and prompts of a pair are drawn.
        reads_degraded: Whether the step reads the conditions of degraded prompts, where there are any.
    """

    data: Pairs
    conditions: EncodedTexts | TextsOnDemand
    size: int
    seed: int
    path: NoisePath
    drawing: Drawing = PLAIN
    reads_degraded: bool = True
    _known: dict[tuple[int, ...], Prompts] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rows(self, step: int) -> list[tuple[int, int]]:
        """The (row, visit) of each pair of an update: every pair once, in a new order, before any comes again."""
        return self._order.rows(step * self.size, self.size)

    def view(self, rows: Sequence[tuple[int, int]], device: torch.device) -> View:
        """Noise some pairs: whatever is drawn belongs to (seed, item, visit); the time is shared within a pair."""
        some = self.data.take([row for row, _ in rows])
        names = [f"{name}@{visit}" for name, (_, visit) in zip(some.ids, rows, strict=True)]
        x0 = self._sides(some.latents, device)
        t = self.path.times(self.drawing.timesteps(self._uniform(names, "time"))).to(device)
        if self.drawing.states == "visited":
            t, x_t = self._visited(some, t)
            noise = Pair(*(self.path.noise_in(x, latents, t) for x, latents in zip(x_t, x0, strict=True)))
        else:
            noise = self._generating(some, x0) if self.drawing.noise == "generating" else self._noise(names, x0)
            x_t = self._noised(x0, noise, t)
        texts = Texts(some.ids, some.prompts, some.degraded)
        if self.drawing.changes_prompts:
            texts = self.data.texts_of(self.rows_of_prompts(rows, t))
        degraded = (texts.degraded if self.reads_degraded else None) or ()
        return View(
            x0=x0,
            noise=noise,
            t=t,
            x_t=x_t,
            condition=self.conditions.of(texts.prompts, device),
            degraded=self.conditions.of(degraded, device) if degraded else {},
            path=self.path,
            label=None if some.marks.label is None else some.marks.label.to(device),
            gap=None if some.marks.gap is None else some.marks.gap.to(device),
        )

    def rows_of_prompts(self, rows: Sequence[tuple[int, int]], t: Tensor) -> list[int]:
        """The row whose prompts each pair gets: its own, or with probability p(t) one of another prompt."""
        some = self.data.texts_of([row for row, _ in rows])
        names = [f"{name}@{visit}" for name, (_, visit) in zip(some.ids, rows, strict=True)]
        share = self.drawing.other_prompts(self.path.progress(t)).tolist()
        draw = self._uniform(names, "other prompt").tolist()
        return [
            self._another(prompt, self._order.beside(*row), name) if u < p else row[0]
            for row, prompt, name, u, p in zip(rows, some.prompts, names, draw, share, strict=True)
        ]

    def _another(self, prompt: str, shards: tuple[int, ...], name: str) -> int:
        """A row of another prompt, each one in memory as likely as any other."""
        known = self._prompts(shards)
        if len(known.rows) < 2:
            raise InputError("draw.other_prompts: the pairs in memory have one prompt: raise train.window")
        ahead = 1 + randomness.stable_seed(self.seed, name, "which prompt") % (len(known.rows) - 1)
        return known.rows[(known.places[prompt] + ahead) % len(known.rows)]

    def _prompts(self, shards: tuple[int, ...]) -> Prompts:
        """Of the shards that are in memory; of those before nothing is kept."""
        if shards not in self._known:
            starts = [0, *accumulate(self.data.sizes)]
            first: dict[str, int] = {}
            for shard in shards:
                for row, prompt in enumerate(self.data.prompts_of(shard), start=starts[shard]):
                    first.setdefault(prompt, row)
            self._known.clear()
            self._known[shards] = Prompts(list(first.values()), {text: place for place, text in enumerate(first)})
        return self._known[shards]

    def _sides(self, latents: Pair[Tensor], device: torch.device) -> Pair[Tensor]:
        """Those that are looked at, in single precision on a device: both, or one of them twice."""
        every = latents._asdict()
        sides = [every[side].float().to(device) for side in self.drawing.sides]
        return Pair(sides[0], sides[-1])

    def _visited(self, some: PairData, t: Tensor) -> tuple[Tensor, Pair[Tensor]]:
        """Of the kept states of each pair those nearest to its time, with their own times."""
        if some.states is None:
            raise InputError("draw.states: visited: the pairs hold no states: sample again with sample.states")
        times = some.states.times
        rows, places = torch.arange(len(times)), (times - t.cpu()[:, None]).abs().argmin(1)
        nearest = some.states.latents.map(lambda side: side[rows, places])
        return times[rows, places].to(t.device), self._sides(nearest, t.device)

    def _noise(self, names: Sequence[str], x0: Pair[Tensor]) -> Pair[Tensor]:
        win = self._normal(names, "noise", x0.win)
        return Pair(win, win if self.drawing.noise == "shared" else self._normal(names, "noise of the loser", x0.lose))

    def _generating(self, some: PairData, x0: Pair[Tensor]) -> Pair[Tensor]:
        """The initial noise of each side's own seed, whatever the visit; one where both look at one latent."""
        seeds = some.marks.seeds
        if seeds is None:
            raise InputError("draw.noise: generating: the pairs keep no seeds: leave it out")
        every = seeds._asdict()
        sides = [
            randomness.normal(every[side].tolist(), x.shape[1:]).to(x.device)
            for side, x in zip(self.drawing.sides, x0, strict=False)
        ]
        return Pair(sides[0], sides[-1])

    def _noised(self, x0: Pair[Tensor], noise: Pair[Tensor], t: Tensor) -> Pair[Tensor]:
        win = self.path.noise(x0.win, noise.win, t)
        one = x0.lose is x0.win and noise.lose is noise.win
        return Pair(win, win if one else self.path.noise(x0.lose, noise.lose, t))

    def _uniform(self, names: Sequence[str], purpose: str) -> Tensor:
        return randomness.uniform([randomness.stable_seed(self.seed, name, purpose) for name in names])

    def _normal(self, names: Sequence[str], purpose: str, like: Tensor) -> Tensor:
        seeds = [randomness.stable_seed(self.seed, name, purpose) for name in names]
        return randomness.normal(seeds, like.shape[1:]).to(like.device)

    @cached_property
    def _order(self) -> Order:
        return Order(tuple(self.data.sizes), self.data.window, self.seed)


def mean_over(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each metric over the micro-batches of one update."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
