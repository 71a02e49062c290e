"""Pairs of latents with their cached conditions, and what is drawn for them at each update."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddspo import draws
from ddspo.backbones.base import Backbone
from ddspo.maths.pair import Pair
from ddspo.maths.paths import NoisePath
from ddspo.policy_pairs.base import Condition, View
from ddspo.training.drawing import PLAIN, Drawing

ENCODED_AT_ONCE = 64

Encode = Literal["before", "during"]
"""When texts are encoded: before training, all kept in main memory, or during it."""


@dataclass(frozen=True)
class PairData:
    """All pairs: ids, prompts, degraded prompts if there are any, and latents in model space, [N, C, H, W] each."""

    ids: Sequence[str]
    prompts: Sequence[str]
    degraded: Sequence[str] | None
    latents: Pair[Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def texts(self) -> list[str]:
        """Every text whose condition a step may need."""
        return [*self.prompts, *(self.degraded or ())]


class Conditions:
    """Every text's condition, encoded once: within a step no text encoder runs."""

    def __init__(self, backbone: Backbone, texts: Iterable[str]) -> None:
        unique = sorted(set(texts))
        self._rows = {text: row for row, text in enumerate(unique)}
        parts = [backbone.encode(unique[i : i + ENCODED_AT_ONCE]) for i in range(0, len(unique), ENCODED_AT_ONCE)]
        self._table = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

    def of(self, texts: Sequence[str], device: torch.device) -> Condition:
        """The condition of some texts, on a device."""
        rows = torch.tensor([self._rows[text] for text in texts])
        return {name: table[rows].to(device) for name, table in self._table.items()}


@dataclass(frozen=True)
class ConditionsOnDemand:
    """Every text's condition, encoded when it is asked for: nothing is kept, and the text encoders stay at work."""

    backbone: Backbone

    def of(self, texts: Sequence[str], device: torch.device) -> Condition:
        """The condition of some texts, on a device; each different text is encoded once."""
        unique = sorted(set(texts))
        rows = torch.tensor([unique.index(text) for text in texts], device=self.backbone.device)
        return {name: table[rows].to(device) for name, table in self.backbone.encode(unique).items()}


def conditions_of(backbone: Backbone, texts: Iterable[str], encode: Encode) -> Conditions | ConditionsOnDemand:
    """The conditions of a training's texts, encoded before or during it."""
    return Conditions(backbone, texts) if encode == "before" else ConditionsOnDemand(backbone)


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
    """

    data: PairData
    conditions: Conditions | ConditionsOnDemand
    size: int
    seed: int
    path: NoisePath
    drawing: Drawing = PLAIN

    def rows(self, step: int) -> list[tuple[int, int]]:
        """The (row, visit) of each pair of an update: every pair once, in a new order, before any comes again."""
        first = step * self.size
        return [self._row(position) for position in range(first, first + self.size)]

    def view(self, rows: Sequence[tuple[int, int]], device: torch.device) -> View:
        """Noise some pairs: whatever is drawn belongs to (seed, item, visit); the time is shared within a pair."""
        names = [f"{self.data.ids[row]}@{visit}" for row, visit in rows]
        index = [row for row, _ in rows]
        x0 = self._latents(index, device)
        noise = self._noise(names, x0)
        t = self.path.times(self.drawing.timesteps(self._uniform(names, "time"))).to(device)
        text = self._texts(names, index, t)
        return View(
            x0=x0,
            noise=noise,
            t=t,
            x_t=self._noised(x0, noise, t),
            condition=self.conditions.of([self.data.prompts[row] for row in text], device),
            degraded=self._degraded(text, device),
            path=self.path,
        )

    def _degraded(self, index: Sequence[int], device: torch.device) -> Condition:
        texts = self.data.degraded
        return self.conditions.of([texts[row] for row in index], device) if texts is not None else {}

    def _latents(self, index: Sequence[int], device: torch.device) -> Pair[Tensor]:
        if self.drawing.latents == "both":
            return self.data.latents.map(lambda latents: latents[index].float().to(device))
        win = self.data.latents.win[index].float().to(device)
        return Pair(win, win)

    def _noise(self, names: Sequence[str], x0: Pair[Tensor]) -> Pair[Tensor]:
        win = self._normal(names, "noise", x0.win)
        return Pair(win, win if self.drawing.noise == "shared" else self._normal(names, "noise of the loser", x0.lose))

    def _noised(self, x0: Pair[Tensor], noise: Pair[Tensor], t: Tensor) -> Pair[Tensor]:
        win = self.path.noise(x0.win, noise.win, t)
        return Pair(win, self.path.noise(x0.lose, noise.lose, t) if x0.lose is not x0.win else win)

    def _texts(self, names: Sequence[str], index: Sequence[int], t: Tensor) -> list[int]:
        """The row whose prompts each pair gets: its own, or with probability p(t) one of another prompt."""
        if not self.drawing.changes_prompts:
            return list(index)
        share = self.drawing.other_prompts(self.path.progress(t)).tolist()
        draw = self._uniform(names, "other prompt").tolist()
        return [
            self._another(row, name) if u < p else row
            for row, name, u, p in zip(index, names, draw, share, strict=True)
        ]

    def _another(self, row: int, name: str) -> int:
        """A row of a prompt other than that of `row`, each such prompt as likely as any other."""
        rows = self._first
        ahead = 1 + draws.stable_seed(self.seed, name, "which prompt") % (len(rows) - 1)
        return rows[(self._place[self.data.prompts[row]] + ahead) % len(rows)]

    @cached_property
    def _first(self) -> list[int]:
        """The first row of each prompt."""
        first: dict[str, int] = {}
        for row, prompt in enumerate(self.data.prompts):
            first.setdefault(prompt, row)
        return list(first.values())

    @cached_property
    def _place(self) -> dict[str, int]:
        """Each prompt's place among all."""
        return {self.data.prompts[row]: place for place, row in enumerate(self._first)}

    def _uniform(self, names: Sequence[str], purpose: str) -> Tensor:
        return draws.uniform([draws.stable_seed(self.seed, name, purpose) for name in names])

    def _normal(self, names: Sequence[str], purpose: str, like: Tensor) -> Tensor:
        seeds = [draws.stable_seed(self.seed, name, purpose) for name in names]
        return draws.normal(seeds, like.shape[1:]).to(like.device)

    def _row(self, position: int) -> tuple[int, int]:
        visit, place = divmod(position, len(self.data))
        return int(self._order(visit)[place]), visit

    def _order(self, visit: int) -> np.ndarray:
        return draws.permutation(len(self.data), draws.stable_seed(self.seed, visit, "order"))


def mean_over(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each metric over the micro-batches of one update."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
