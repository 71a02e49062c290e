"""prompts.jsonl -> pairs/: winning and losing latents in parquet shards.

A pair is either a sample of a prompt against one of its degraded prompt, from the same initial noise, or, with labels,
the best against the worst of several samples of one prompt, by a judge.
A shard is made batch by batch, and what is in a batch does not depend on who makes it or when: an interruption costs
the batch in flight, and the next run makes exactly what is missing.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from annotated_types import Ge, Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo import draws
from ddspo.backbones._sampler import check_draws, check_scheduler, sampling_with
from ddspo.backbones.base import Backbone, Found, Model
from ddspo.errors import InputError
from ddspo.maths.pair import Pair, split
from ddspo.metrics.base import Metric, Score
from ddspo.pairs.background import Behind, ahead
from ddspo.pairs.preview import preview
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.progress import Progress
from ddspo.rows import each_row
from ddspo.run_folder import Row, RunFolder

SHARES = 16
"""A small run has as many shards at least, so that as many processes can share it."""

LABELLED: dict[str, pa.DataType] = {
    **{"win_seed": pa.int64(), "lose_seed": pa.int64(), "win_score": pa.float64(), "lose_score": pa.float64()},
    **{"win_note": pa.string(), "lose_note": pa.string()},
}


@dataclass(frozen=True)
class Labels:
    """Pairs of one prompt each: a best against a worst of several samples from different seeds."""

    judge: Annotated[Metric, Doc("what scores the samples, against the rows of `prompts`")]
    candidates: Annotated[int, Ge(2), Doc("samples of each prompt; if all score alike, it gives no pair")] = 8


@dataclass(frozen=True)
class Sampling:
    """How pairs are generated."""

    pairs: Annotated[
        int, Gt(0), Doc("how many, with labels at most; prompts are used in turn, each time with a new seed")
    ] = 512
    scheduler: Annotated[str | None, Doc("a scheduler of diffusers, as DDIMScheduler; null: the model's own")] = None
    scheduler_options: Annotated[
        dict[str, Any], Doc("entries of its configuration that are to differ from the model's")
    ] = field(default_factory=dict)
    steps: Annotated[Annotated[int, Gt(0)] | None, Doc("sampler steps; null: as usual for the model")] = None
    guidance: Annotated[
        Annotated[float, Ge(1)] | None, Doc("classifier-free guidance scale, 1 for none; null: as usual for the model")
    ] = None
    batch: Annotated[int, Gt(0), Doc("pairs generated at once")] = 32
    shard: Annotated[int, Gt(0), Doc("pairs of a file, in whole batches; fewer in a run of few")] = 1024
    labels: Annotated[Labels | None, Doc("a judge instead of degraded prompts; null: degraded prompts")] = None

    def check(self, found: Found, model: Model) -> None:
        """Refuse a scheduler that is not for a model, which is not loaded yet.

        Raises:
            InputError: It is one.
        """
        check_scheduler(found, model, self.scheduler, self.scheduler_options)

    def how(self, backbone: Backbone) -> tuple[int, float]:
        """Steps and guidance for a model."""
        steps, guidance = backbone.usual
        return self.steps or steps, self.guidance or guidance

    @property
    def rows(self) -> int:
        """Pairs of a shard: whole batches, at most `shard`, and few enough for `SHARES` shards."""
        return self.batch * max(1, min(self.shard, self.pairs // SHARES) // self.batch)

    @property
    def shards(self) -> int:
        """How many there are."""
        return math.ceil(self.pairs / self.rows)


def sample(
    run: RunFolder,
    backbone: Backbone,
    model: Model,
    settings: Sampling,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Generate whatever is missing; the processes take turns, a shard each.

    Raises:
        InputError: The scheduler is not for this model, the judge cannot read a prompt's row, no two samples of any
            prompt differ, or there are pairs of other settings already.
    """
    with sampling_with(backbone, settings.scheduler, settings.scheduler_options):
        if settings.scheduler or settings.scheduler_options:
            check_draws(backbone, *settings.how(backbone))
        if accelerator.is_main_process:
            begin(run.pairs, settings.shards)
        accelerator.wait_for_everyone()
        writer = PairWriter(run.pairs, _origin(run, backbone, model, settings, seed), accelerator.process_index)
        _make(run.prompts, backbone, settings, seed, writer, accelerator, progress)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        entries = finish(run.pairs, settings.shards)
        if settings.labels:
            progress.say(_yield(sum(entry.rows for entry in entries.values()), settings.pairs, settings.labels))
        preview(PairStore.open(run.pairs), run.images / "pairs", backbone.decode)
    accelerator.wait_for_everyone()


def _make(
    prompts: Path,
    backbone: Backbone,
    settings: Sampling,
    seed: int,
    writer: PairWriter,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """All batches of a process: the next one is planned, and the last one written, while one is generated."""
    make = _label if settings.labels else _generate
    plan = Plan(prompts, settings, seed)
    with progress.task("sample", settings.pairs) as advance, Behind() as behind:
        for batch in ahead(plan.batches(writer, accelerator.process_index, accelerator.num_processes)):
            if batch.part is not None:
                behind(partial(writer.add, batch.shard, batch.part, *make(backbone, batch.rows, settings)))
            if batch.closes:
                behind(partial(writer.close, batch.shard, batch.closes))
            advance(len(batch.rows) * accelerator.num_processes, "")
    for line in gather_object(writer.damaged):
        progress.say(f"sample: made again: {line}")


class Batch(NamedTuple):
    """Rows of a shard to make, or rows that are there already, and of how many parts the shard is if they end it."""

    shard: int
    part: int | None
    rows: Sequence[Row]
    closes: int | None


@dataclass(frozen=True)
class Plan:
    """Which pairs there are to be: prompts in turn, and what is drawn for each; one shard's rows are held at once."""

    prompts: Path
    settings: Sampling
    seed: int

    def batches(self, writer: PairWriter, process: int, processes: int) -> Iterator[Batch]:
        """What a process has to do: every so many shards are its own."""
        settings, rows = self.settings, self._rows()
        for shard in range(settings.shards):
            mine = list(islice(rows, min(settings.rows, settings.pairs - shard * settings.rows)))
            if shard % processes != process:
                continue
            parts = [mine[first : first + settings.batch] for first in range(0, len(mine), settings.batch)]
            missing = writer.missing(shard, len(parts))
            left = missing or []
            kept = [row for part, rows in enumerate(parts) for row in rows if part not in left]
            yield Batch(shard, None, kept, len(parts) if missing == [] else None)
            for part in left:
                yield Batch(shard, part, parts[part], len(parts) if part == left[-1] else None)

    def _rows(self) -> Iterator[Row]:
        for turn in count():
            prompt = None
            for prompt in each_row(self.prompts):
                yield self._row(prompt, f"{prompt['id']}~{turn}")
            if prompt is None:
                raise InputError(f"{self.prompts}: holds no prompt: run `ddspo degrade` first")

    def _row(self, prompt: Row, name: str) -> Row:
        start, labels = {"id": name, "prompt": prompt["prompt"]}, self.settings.labels
        if labels:
            fault = labels.judge.check(prompt)
            if fault:
                raise InputError(f"prompts: {prompt['id']}: {fault}: give a row that sample.labels.judge can read")
            seeds = [draws.stable_seed(self.seed, name, "candidate", each) for each in range(labels.candidates)]
            return start | {"item": prompt, "seeds": seeds}
        variants = prompt["degraded"]
        chosen = variants[draws.stable_seed(self.seed, name, "variant") % len(variants)]
        drawn = {"degraded": chosen["text"], "kind": chosen["kind"]}
        return start | drawn | {"seed": draws.stable_seed(self.seed, name, "latent")}


def _origin(run: RunFolder, backbone: Backbone, model: Model, settings: Sampling, seed: int) -> Origin:
    """How the pairs are made. The representation names the judge's class, which its options alone would not."""
    steps, guidance = settings.how(backbone)
    with run.prompts.open("rb") as file:
        prompts = hashlib.file_digest(file, "sha256").hexdigest()
    made: Row = {"model": model.path, "revision": model.revision, "dtype": model.dtype, "resolution": model.resolution}
    made |= {"scheduler": type(backbone.pipeline.scheduler).__name__, "steps": steps, "guidance": guidance}
    made |= {"seed": seed, "prompts": prompts[:16], "recipe": hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}
    return Origin(made, backbone.latent_shape, LABELLED if settings.labels else DEGRADED)


Made = tuple[Sequence[Row], Pair[Tensor]]
"""Rows and their latents."""


def _generate(backbone: Backbone, rows: Sequence[Row], settings: Sampling) -> Made:
    """Both samples of each pair in one batch, from the same initial noise."""
    prompts = [row["prompt"] for row in rows] + [row["degraded"] for row in rows]
    return rows, split(backbone.generate(prompts, [row["seed"] for row in rows] * 2, *settings.how(backbone)))


def _label(backbone: Backbone, rows: Sequence[Row], settings: Sampling) -> Made:
    """Generate and judge all candidates, as many at once as without labels, and keep two of each prompt or none."""
    assert settings.labels
    tasks = [(row["item"], seed) for row in rows for seed in row["seeds"]]
    latents, scores = [], []
    for first in range(0, len(tasks), 2 * settings.batch):
        items, seeds = zip(*tasks[first : first + 2 * settings.batch], strict=True)
        prompts = [item["prompt"] for item in items]
        part = backbone.generate(prompts, seeds, *settings.how(backbone)).cpu().half()
        scores += settings.labels.judge(backbone.decode(part.float()), items)
        latents.append(part)
    found, chosen = [], []
    for number, row in enumerate(rows):
        first, candidates = number * len(row["seeds"]), len(row["seeds"])
        mine = scores[first : first + candidates]
        places = best_and_worst([score.value for score in mine], row["seeds"])
        if places:
            found.append({"id": row["id"], "prompt": row["prompt"]} | _verdict(places, mine, row["seeds"]))
            chosen.append(places.map(lambda place: first + place))  # noqa: B023
    every = torch.cat(latents)
    index = Pair([pair.win for pair in chosen], [pair.lose for pair in chosen])
    return found, index.map(lambda places: every[places])


def best_and_worst(values: Sequence[float], seeds: Sequence[int]) -> Pair[int] | None:
    """Places of a best and of a worst value, or None if all are equal; ties go by the seeds, which are stable hashes.

    Raises:
        InputError: A value is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise InputError(f"sample.labels.judge: scores {values}: use a judge with finite scores")
    if min(values) == max(values):
        return None
    order = sorted(range(len(values)), key=lambda place: (values[place], seeds[place]))
    return Pair(order[-1], order[0])


def _verdict(places: Pair[int], scores: Sequence[Score], seeds: Sequence[int]) -> Row:
    found: Row = {}
    for side, place in places._asdict().items():
        score = scores[place]
        found |= {f"{side}_seed": seeds[place], f"{side}_score": score.value, f"{side}_note": score.note}
    return found


def _yield(pairs: int, prompts: int, labels: Labels) -> str:
    """What a reader must know of labelled pairs, in a line."""
    if not pairs:
        raise InputError(
            f"sample: all {labels.candidates} samples of every prompt score alike, so that there is no pair: "
            "raise sample.labels.candidates or sample.pairs, or choose prompts that the model sometimes gets wrong"
        )
    alike = f"all {labels.candidates} samples of the other {prompts - pairs} score alike"
    return f"sample: {pairs} of {prompts} prompts gave a pair; {alike}"
