"""Pairs of latents with their cached conditions, and what is drawn for them at each update."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddspo import draws
from ddspo.backbones.base import Backbone
from ddspo.maths.pair import Pair
from ddspo.maths.paths import NoisePath
from ddspo.policy_pairs.base import Condition, View

ENCODED_AT_ONCE = 64


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
class Batches:
    """The batch of every update, a function of seed, update and item only.

    Attributes:
        data: The pairs.
        conditions: Their encoded texts.
        size: Pairs an update, over all processes.
        seed: The run's seed.
        path: The forward process.
        noise: Whether both latents of a pair are noised with one draw or each with its own.
    """

    data: PairData
    conditions: Conditions
    size: int
    seed: int
    path: NoisePath
    noise: Literal["shared", "independent"] = "shared"

    def rows(self, step: int) -> list[tuple[int, int]]:
        """The (row, visit) of each pair of an update: every pair once, in a new order, before any comes again."""
        first = step * self.size
        return [self._row(position) for position in range(first, first + self.size)]

    def view(self, rows: Sequence[tuple[int, int]], device: torch.device) -> View:
        """Noise some pairs: noise and time belong to (seed, item, visit); the time is shared within a pair."""
        names = [f"{self.data.ids[row]}@{visit}" for row, visit in rows]
        index = [row for row, _ in rows]
        x0 = self.data.latents.map(lambda latents: latents[index].float().to(device))
        win = self._noise(names, "noise", x0.win)
        noise = Pair(win, win if self.noise == "shared" else self._noise(names, "noise of the loser", x0.lose))
        u = draws.uniform([draws.stable_seed(self.seed, name, "time") for name in names])
        t = self.path.times(u).to(device)
        return View(
            x0=x0,
            noise=noise,
            t=t,
            x_t=Pair(self.path.noise(x0.win, noise.win, t), self.path.noise(x0.lose, noise.lose, t)),
            condition=self.conditions.of([self.data.prompts[row] for row in index], device),
            degraded=self._degraded(index, device),
            path=self.path,
        )

    def _degraded(self, index: Sequence[int], device: torch.device) -> Condition:
        texts = self.data.degraded
        return self.conditions.of([texts[row] for row in index], device) if texts is not None else {}

    def _noise(self, names: Sequence[str], purpose: str, like: Tensor) -> Tensor:
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
