"""Which pairs there are to be, one shard's rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddspo import randomness
from ddspo.errors import InputError
from ddspo.pairs.layout import layout_of
from ddspo.pairs.writer import PairWriter
from ddspo.rows import AnyRows, Row
from ddspo.sampling.options import Sampling


class Batch(NamedTuple):
    """Rows of a shard to make, or rows that are there already, and of how many parts the shard is if they end it."""

    shard: int
    part: int | None
    rows: Sequence[Row]
    closes: int | None


@dataclass(frozen=True)
class Plan:
    """Which pairs there are to be: prompts in a seeded order, and what is drawn for each.

    One shard's rows are held at once, and those of other processes are not read.

    Attributes:
        prompts: Rows of `degrade`.
        settings: How many pairs, and how.
        seed: The run's.
        first: Where they begin in the one endless sequence of pairs that prompts and seed give.
    """

    prompts: Path
    settings: Sampling
    seed: int
    first: int = 0

    def batches(self, writer: PairWriter, process: int, processes: int) -> Iterator[Batch]:
        """What a process has to do: every so many shards are its own."""
        layout = layout_of(writer.folder, self.settings.layout)
        sizes = layout.sizes(self.settings.pairs)
        for shard, (first, size) in enumerate(zip(accumulate(sizes, initial=0), sizes, strict=False)):
            if shard % processes != process:
                continue
            mine = list(self.rows(first, size))
            parts = [mine[first : first + layout.part] for first in range(0, size, layout.part)]
            missing = writer.missing(shard, len(parts))
            left = missing or []
            kept = [row for part, rows in enumerate(parts) for row in rows if part not in left]
            yield Batch(shard, None, kept, len(parts) if missing == [] else None)
            for part in left:
                yield Batch(shard, part, parts[part], len(parts) if part == left[-1] else None)

    def texts(self, pairs: int, *, degraded: bool) -> Iterator[str]:
        """Prompts, and degraded ones if asked for, of so many pairs of this plan and of those that follow."""
        for row in self.rows(0, pairs):
            yield row["prompt"]
            if degraded and "degraded" in row:
                yield row["degraded"]

    def rows(self, first: int, size: int) -> Iterator[Row]:
        """What is drawn for some pairs of this plan, or for those that follow."""
        if not len(self._prompts):
            raise InputError(f"{self.prompts}: holds no prompt: run `ddspo degrade` first")
        first, left = self.first + first, size
        while left:
            turn, place = divmod(first, len(self._prompts))
            places = self._order(turn)[place : place + left]
            for prompt in self._prompts.take(places):
                yield self._row(prompt, f"{prompt['id']}~{turn}")
            first, left = first + len(places), left - len(places)

    def _order(self, turn: int) -> NDArray[np.int64]:
        """Of the prompts: another one on each turn, because theirs may be by kind, and a part must be of all kinds."""
        return randomness.permutation(len(self._prompts), randomness.stable_seed(self.seed, turn, "prompts"))

    @cached_property
    def _prompts(self) -> AnyRows:
        return AnyRows(self.prompts)

    def _row(self, prompt: Row, name: str) -> Row:
        labels = self.settings.labels
        start = {"id": name, "prompt": prompt["prompt"], "visits": randomness.stable_seed(self.seed, name, "visits")}
        if labels:
            fault = labels.judge.missing(prompt)
            if fault:
                raise InputError(f"prompts: {prompt['id']}: {fault}: give a row that sample.labels.judge can read")
            seeds = [randomness.stable_seed(self.seed, name, "candidate", each) for each in range(labels.candidates)]
            return start | {"item": prompt, "seeds": seeds}
        variants = prompt["degraded"]
        chosen = variants[randomness.stable_seed(self.seed, name, "variant") % len(variants)]
        drawn = {"degraded": chosen["text"], "kind": chosen["kind"]}
        return start | drawn | {"seed": randomness.stable_seed(self.seed, name, "latent")}
