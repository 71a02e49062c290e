"""A dataset -> pairs/, left_out.jsonl: images encoded once, and whatever gives no pair counted and named.

A dataset of preferences has pairs; one of labelled or captioned images has a side of each, and of these prompts.jsonl
the poorer captions.

Every process reads all rows in their order, numbers those that may give a pair, and decodes and encodes those of its
own shards. So what a shard holds depends on the dataset alone.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from annotated_types import Ge, Gt, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.agreement import agree, alone
from ddspo.backbones._autoencoder import Resize
from ddspo.backbones.base import Backbone, Model
from ddspo.errors import InputError, legible
from ddspo.files import write_json, write_rows
from ddspo.maths.pair import Pair
from ddspo.pairs.background import ahead
from ddspo.pairs.layout import Layout, keep_layout, layout_of
from ddspo.pairs.marks import LABEL, SCORES
from ddspo.pairs.preview import preview
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.preferences._parts import Part, parts, with_degraded
from ddspo.preferences._rows import LeftOut
from ddspo.preferences._sides import Side, Unusable
from ddspo.preferences.base import Preference, Preferences
from ddspo.progress import Advance, Progress
from ddspo.rows import Row, each_row
from ddspo.run_folder import RunFolder

DECODERS = 4
"""Threads that decode images while others are encoded."""
NAMED = 3
"""Rows that the summary names of each reason; left_out.jsonl has all."""
LEGIBLE = 300
"""Characters of anyone's text that a line of a file or of a terminal shows."""
SMALL, NARROW = "too small", "too narrow"

Content = np.ndarray | Tensor


@dataclass(frozen=True)
class Dataset:
    """Pairs of a dataset of preferences, or captioned or labelled images, in place of those that the model samples."""

    source: Annotated[str, Doc("a file, a folder, or a `datasets` id")]
    format: Annotated[Preferences, Doc("what it is")]
    pairs: Annotated[int | None, Gt(0), Doc("at most so many, the first; null: all")] = None
    resize: Annotated[
        Resize, Doc("how images get the model's shape: crop around the centre, stretch, or pad with their edges")
    ] = "crop"
    smallest: Annotated[
        int, Ge(0), Doc("images whose shorter side has fewer pixels are left out; 0: small ones are enlarged")
    ] = 0
    narrowest: Annotated[
        float, Ge(1), Le(16), Doc("images whose longer side is more than so many times the shorter are left out")
    ] = 4.0
    # Not in the representation, whose digest is in the shards: pairs do not depend on it.
    batch: Annotated[int, Gt(0), Doc("pairs decoded and encoded at once")] = field(default=32, repr=False)
    shard: Annotated[int, Gt(0), Doc("pairs of a file, in whole batches")] = 1024

    @property
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that its pairs have."""
        return ("win",) if self.format.alone or self.format.labelled else Pair._fields

    @property
    def has_degraded(self) -> bool:
        """Whether each pair has a degraded prompt."""
        return self.format.degraded or self.format.alone

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Of its pairs, beyond those of all."""
        found: dict[str, pa.DataType] = {"place": pa.string(), "notes": pa.string()}
        found |= DEGRADED if self.has_degraded else {}
        found |= dict.fromkeys(SCORES, pa.float64()) if self.format.has_scores else {}
        return found | ({LABEL: pa.int8()} if self.format.labelled else {})

    def captions(self, at_most: int | None = None) -> Iterator[Row]:
        """The captions of images, each once, of at most so many rows."""
        limits = [limit for limit in (self.pairs, at_most) if limit is not None]
        return self.format.prompts(self.source, min(limits, default=None))

    def description(self) -> Row:
        """What its captions depend on."""
        return {"source": self.source, "format": repr(self.format), "pairs": self.pairs}

    @property
    def layout(self) -> Layout:
        """Of a store that is begun."""
        return Layout(self.batch * max(1, self.shard // self.batch), self.batch)


def import_pairs(
    run: RunFolder,
    backbone: Backbone,
    settings: Dataset,
    model: Model,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Import whatever is missing; the processes take turns at shards.

    Raises:
        InputError: The dataset is not what it was when this was begun, gives no pair, or has latents of another model.
    """
    layout = layout_of(run.pairs, settings.layout)
    alone(lambda: begin(run.pairs))
    alone(lambda: keep_layout(run.pairs, layout))
    writer = PairWriter(run.pairs, origin_of_import(backbone, settings, model), accelerator.process_index)
    mine = Importer(run, backbone, settings, writer, accelerator.process_index, accelerator.num_processes)
    with progress.task("import", settings.format.count(settings.source)) as advance:
        shards = agree(lambda: mine.run_all(advance))
    for line in gather_object(writer.damaged):
        progress.say(f"import: made again: {line}")
    alone(lambda: _finish(run, backbone, shards, progress))


def origin_of_import(backbone: Backbone, settings: Dataset, model: Model) -> Origin:
    """How these pairs are made, which whoever goes on with them must do alike."""
    made = {"model": model.path, "revision": model.revision, "dtype": model.dtype}
    made["dataset"] = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    return Origin(made, backbone.latent_shape, settings.columns, settings.sides)


@dataclass
class Importer:
    """One process's share of a dataset."""

    run: RunFolder
    backbone: Backbone
    settings: Dataset
    writer: PairWriter
    process: int
    processes: int
    _missing: dict[int, list[int] | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.layout = layout_of(self.run.pairs, self.settings.layout)

    def run_all(self, advance: Advance) -> int:
        """Make what is missing, and return how many shards there are."""
        given, shards = self.settings, 0
        found = given.format.read(given.source)
        if given.format.alone:
            variants = {row["prompt"]: row["degraded"] for row in each_row(self.run.prompts)}
            found = with_degraded(islice(found, given.pairs), variants)
        some = parts(found, given.pairs, self.layout.part, self.layout.parts)
        with ThreadPoolExecutor(DECODERS) as pool:
            for part, contents in ahead((part, self._begin(part, pool)) for part in some):
                if contents is not None:
                    self._write(part, contents)
                if part.closes:
                    shards = part.shard + 1
                    if self._missing.pop(part.shard, None) is not None:
                        self.writer.close(part.shard, part.number + 1)
                advance(part.rows, "")
        return shards

    def _begin(self, part: Part, pool: ThreadPoolExecutor) -> list[Pair[Future[Content]]] | None:
        """Start to decode a part; None: it is another process's, or there already."""
        if part.shard % self.processes != self.process:
            return None
        if part.shard not in self._missing:
            self._missing[part.shard] = self.writer.missing(part.shard, self.layout.parts)
        if part.number not in (self._missing[part.shard] or ()):
            self._check(part)
            return None
        return [self._contents(each.preference.sides, pool) for each in part.candidates]

    def _contents(self, sides: Pair[Side], pool: ThreadPoolExecutor) -> Pair[Future[Content]]:
        """Both, or the only one twice."""
        win, *lose = (pool.submit(_content, side, self.backbone, self.settings) for side in dict.fromkeys(sides))
        return Pair(win, lose[0] if lose else win)

    def _check(self, part: Part) -> None:
        """A part that is there was made of these very rows."""
        path = _notes(self.run, part)
        if not path.exists() and self.run.left_out.exists():
            return
        if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["digest"] != part.digest:
            raise InputError(
                f"dataset.source {self.settings.source}: has other rows than when this import was begun: "
                "start again with `ddspo import --fresh`"
            )

    def _write(self, part: Part, contents: Sequence[Pair[Future[Content]]]) -> None:
        """Keep a part: first what is left out of it, then its pairs, so that where these are, that is too."""
        rows: list[Row] = []
        kept: list[Pair[Content]] = []
        left_out = list(part.left_out)
        for number, (candidate, pair) in enumerate(zip(part.candidates, contents, strict=True), start=part.start):
            try:
                kept.append(pair.map(lambda side: side.result()))
            except Unusable as fault:
                left_out.append(LeftOut(candidate.preference.place, fault.reason, fault.detail))
            else:
                rows.append(_row(number, candidate.preference))
        named = [{name: legible(value[:LEGIBLE]) for name, value in each._asdict().items()} for each in left_out]
        write_json(_notes(self.run, part), {"digest": part.digest, "left_out": named})
        self.writer.add(part.shard, part.number, rows, self._latents(kept))

    def _latents(self, contents: Sequence[Pair[Content]]) -> Pair[Tensor]:
        each = len(self.settings.sides)
        sides = [side for pair in contents for side in pair[:each]]
        images = [side for side in sides if not isinstance(side, Tensor)]
        encoded = iter(self.backbone.to_latents(images).cpu() if images else ())
        latents = [side if isinstance(side, Tensor) else next(encoded) for side in sides]
        both = torch.stack(latents) if latents else torch.empty(0, *self.backbone.latent_shape)
        return Pair(both[::each], both[each - 1 :: each])


def _finish(run: RunFolder, backbone: Backbone, shards: int, progress: Progress) -> None:
    entries = finish(run.pairs, shards)
    _gather(run)
    for line in summary(run.left_out, sum(entry.rows for entry in entries.values())):
        progress.say(line)
    preview(PairStore.open(run.pairs), run.images / "pairs", backbone.decode)


def summary(left_out: Path, pairs: int) -> list[str]:
    """How many pairs there are, and how many rows gave none for which reason, in a line each.

    Raises:
        InputError: There is no pair at all.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in each_row(left_out):
        reasons[row["reason"]].append(row["place"])
    counts = [(reason, len(places)) for reason, places in sorted(reasons.items())]
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in counts) or "it is empty"
        raise InputError(f"import: no row gives a pair ({why}): {left_out} names each")
    rows = pairs + sum(count for _, count in counts)
    lines = [f"import: {pairs} pairs of {rows} rows; {left_out} names the others"]
    for reason, count in counts:
        some = ", ".join(reasons[reason][:NAMED]) + (", ..." if count > NAMED else "")
        lines.append(f"import: {count} {reason}: {some}")
    return lines


def _content(side: Side, backbone: Backbone, settings: Dataset) -> Content:
    """A latent, or an image in the model's shape."""
    found = side.read()
    if isinstance(found, Tensor):
        if found.shape != backbone.latent_shape:
            shapes = f"{list(found.shape)}, and this model's are {list(backbone.latent_shape)}"
            raise InputError(f"dataset.source {settings.source}: its latents are {shapes}: import for their own model")
        return found
    short, long = sorted(found.shape[:2])
    size = f"{found.shape[1]} x {found.shape[0]}"
    if short < settings.smallest:
        raise Unusable(SMALL, size)
    if long > settings.narrowest * short:
        raise Unusable(NARROW, size)
    return backbone.fit(found, settings.resize)


def _row(number: int, found: Preference) -> Row:
    """A pair's row; its id is its number, whatever the dataset calls it."""
    notes = json.dumps(found.notes, default=str)
    row: Row = {"id": f"{number:08d}", "prompt": found.prompt, "place": legible(found.place[:LEGIBLE]), "notes": notes}
    row |= {"degraded": found.degraded, "kind": found.kind} if found.degraded else {}
    row |= dict(zip(SCORES, found.scores, strict=True)) if found.scores else {}
    return row | ({} if found.wanted is None else {LABEL: 1 if found.wanted else -1})


def _notes(run: RunFolder, part: Part) -> Path:
    return run.importing / f"{part.shard:06d}-{part.number:06d}.json"


def _gather(run: RunFolder) -> None:
    """One file of all that was left out. Once it is there, the parts are no longer needed."""
    if not run.left_out.exists():
        found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.importing.glob("[0-9]*.json")))
        write_rows(run.left_out, (row for each in found for row in each["left_out"]))
    shutil.rmtree(run.importing, ignore_errors=True)
