"""pairs/ -> what is in it: how many, of what kinds, how they were made, how far apart both sides are, and pictures."""

import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ddspo.degradations.base import overlap
from ddspo.errors import InputError, legible
from ddspo.files import replace_atomically
from ddspo.pairs.preview import Decode, preview
from ddspo.pairs.shards import MADE, Origin, numbers_of, read_shard
from ddspo.pairs.store import PairStore, listed
from ddspo.pairs.writer import read_index
from ddspo.run_folder import RunFolder

COLUMNS = 4
CELL = 2.2
"""Inches that a picture takes on the sheet."""
SMALL = 128
"""Fewer pixels than these are shown as squares."""


@dataclass
class Spread:
    """Mean and range of what was added."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, values: ArrayLike) -> None:
        """Take some more into account."""
        numbers = np.asarray(values, np.float64)
        if numbers.size:
            self.count += numbers.size
            self.total += float(numbers.sum())
            self.least, self.most = min(self.least, float(numbers.min())), max(self.most, float(numbers.max()))

    def __str__(self) -> str:
        return f"{self.total / self.count:.3g} ({self.least:.3g} to {self.most:.3g})" if self.count else "none"


@dataclass
class Findings:
    """What a folder of shards holds.

    Attributes:
        folder: The shards.
        whole: Names of those that can be read.
        damaged: What is wrong with the others, a line each.
        origin: How the first whole one was made.
        made: Pairs by how their rows were made.
        kept: By kind of degraded prompt, the share of the prompt's words that it keeps.
        latents: Root mean squares of both sides and of their difference.
        times: Of the states that are kept.
    """

    folder: Path
    whole: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    origin: Origin | None = None
    made: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    latents: dict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    times: Spread = field(default_factory=Spread)

    def add(self, table: pa.Table, origin: Origin) -> None:
        """Take a shard into account."""
        for row in table.group_by(list(MADE)).aggregate([([], "count_all")]).to_pylist():
            count = row.pop("count_all")
            how = ", ".join(f"{name} {value}" for name, value in row.items() if value is not None)
            self.made[legible(how)] += count
        if "degraded" in origin.columns:
            kept: dict[str, list[float]] = defaultdict(list)
            for row in table.select(["prompt", "degraded", "kind"]).to_pylist():
                kept[legible(row["kind"] or "unknown")].append(overlap(row["prompt"], row["degraded"]))
            for kind, shares in kept.items():
                self.kept[kind].add(shares)
        parts = {side: numbers_of(table, side, origin).astype(np.float32) for side in origin.sides}
        if len(parts) > 1:
            parts["difference"] = parts["win"] - parts["lose"]
        for name, part in parts.items():
            self.latents[name].add(np.sqrt(np.square(part).reshape(len(part), -1).mean(1)))
        if origin.states:
            self.times.add(numbers_of(table, "times", origin))

    def lines(self) -> Iterator[str]:
        """All of it, to print."""
        yield f"{self.made.total()} pairs in {len(self.whole)} shards of {self.folder}"
        if self.origin:
            yield f"latents {list(self.origin.shape)}, root mean square, mean and range over pairs:"
            yield from (f"  {name}: {spread}" for name, spread in self.latents.items())
            if self.origin.states:
                yield f"states kept of each latent: {self.origin.states}; their times, mean and range: {self.times}"
        yield "made with:" if self.made else "none can be read"
        yield from (f"  {count} x {how}" for how, count in self.made.most_common())
        for kind, spread in sorted(self.kept.items()):
            yield f"degraded by {kind}: {spread.count}; share of the prompt's words that is left: {spread}"
        yield from (f"damaged: {line}" for line in self.damaged)

    def store(self) -> PairStore:
        """The whole shards."""
        assert self.origin
        entries = read_index(self.folder)
        return PairStore([listed(self.folder / name, entries[name]) for name in self.whole], self.origin)


def inspect(path: Path) -> Findings:
    """Read all shards of a run, or of a folder of shards, one at a time.

    Raises:
        InputError: There are none.
    """
    own = RunFolder(path).pairs
    found = Findings(own if own.is_dir() else path)
    entries = read_index(found.folder)
    if not entries:
        raise InputError(f"{path}: no pairs: give a run folder, or a folder of shards with index.json")
    for name, entry in sorted(entries.items()):
        file = found.folder / name
        try:
            table = read_shard(file, entry, found.origin)
        except InputError as error:
            found.damaged.append(str(error))
            continue
        found.origin = found.origin or Origin.of(table.schema, file)
        found.whole.append(name)
        found.add(table, found.origin)
    strange = sorted({file.name for file in found.folder.glob("*.parquet")} - set(entries))
    found.damaged += [f"{found.folder / name}: not in index.json" for name in strange]
    return found


def contact_sheet(found: Findings, decode: Decode) -> Path:
    """Some pairs on one sheet, winners above their losers under their prompts, beside the pictures themselves.

    Where one side alone was sampled there is that.
    """
    run = found.folder.parent if found.folder.name == "pairs" else found.folder
    folder = RunFolder(run).images / "pairs"
    store = found.store()
    shown = preview(store, folder, decode)
    rows = -(-len(shown) // COLUMNS) * len(store.sides)
    figure = Figure(figsize=(CELL * COLUMNS, 1.2 * CELL * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for number, pair in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        texts = {"win": pair.prompt, "lose": pair.degraded or "the same prompt"}
        for below, (side, image) in enumerate(pair.images.items()):
            _show(axes[len(pair.images) * row + below, column], texts[side], image)
    sheet = folder / "sheet.png"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of prompts in any script
        replace_atomically(sheet, lambda partial: figure.savefig(partial, format="png", dpi=110))
    return sheet


def _show(axes: Axes, text: str, image: np.ndarray) -> None:
    """An image, however small, under the first words of its prompt."""
    axes.imshow(image, interpolation="nearest" if image.shape[0] < SMALL else "antialiased")
    axes.set_title(textwrap.fill(textwrap.shorten(text, 80), 26), fontsize=8, parse_math=False)
