"""Which pairs there are to be, one shard's rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from ddspo import randomness
from ddspo.errors import InputError
from ddspo.pairs.layout import layout_of
from ddspo.pairs.writer import PairWriter
from ddspo.rows import Row, each_row
from ddspo.sampling.options import Sampling


class Batch(NamedTuple):
    """Rows of a shard to make, or rows that are there already, and of how many parts the shard is if they end it."""

    shard: int
    part: int | None
    rows: Sequence[Row]
    closes: int | None


@dataclass(frozen=True)
class Plan:
    """Which pairs there are to be: prompts in turn, and what is drawn for each; one shard's rows are held at once.

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
        pairs, rows = self.settings.pairs, self._rows()
        layout = layout_of(writer.folder, self.settings.layout)
        for shard, size in enumerate(layout.sizes(pairs)):
            mine = list(islice(rows, size))
            if shard % processes != process:
                continue
            parts = [mine[first : first + layout.part] for first in range(0, len(mine), layout.part)]
            missing = writer.missing(shard, len(parts))
            left = missing or []
            kept = [row for part, rows in enumerate(parts) for row in rows if part not in left]
            yield Batch(shard, None, kept, len(parts) if missing == [] else None)
            for part in left:
                yield Batch(shard, part, parts[part], len(parts) if part == left[-1] else None)

    def texts(self, pairs: int, *, degraded: bool) -> Iterator[str]:
        """Prompts, and degraded ones if asked for, of so many pairs of this plan and of those that follow."""
        for row in islice(self._rows(), pairs):
            yield row["prompt"]
            if degraded and "degraded" in row:
                yield row["degraded"]

    def _rows(self) -> Iterator[Row]:
        return (self._row(*each) for each in islice(self._turns(), self.first, None))

    def _turns(self) -> Iterator[tuple[Row, str]]:
        for turn in count():
            prompt = None
            for prompt in each_row(self.prompts):
                yield prompt, f"{prompt['id']}~{turn}"
            if prompt is None:
                raise InputError(f"{self.prompts}: holds no prompt: run `ddspo degrade` first")

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
