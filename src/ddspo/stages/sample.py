"""prompts.jsonl -> pairs/: winning and losing latents in parquet shards.

A pair is either a sample of a prompt against one of its degraded prompt, from the same initial noise, or, with labels,
the best against the worst of several samples of one prompt, by a judge.
A shard is one batch of prompts, so its bytes do not depend on who makes it or when; whole shards are kept when an
interrupted run goes on.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from annotated_types import Ge, Gt
from PIL import Image
from torch import Tensor
from typing_extensions import Doc

from ddspo import draws
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.maths.pair import Pair, cat, split
from ddspo.metrics.base import Metric, Score
from ddspo.progress import Progress
from ddspo.run_folder import Row, RunFolder, read_rows, replace_atomically, write_rows
from ddspo.training.batches import PairData

PREVIEWS = 12
_SCHEMA = {"id": pa.string(), "prompt": pa.string(), "degraded": pa.string(), "seed": pa.int64()}
_LABELLED = {
    **{"id": pa.string(), "prompt": pa.string(), "win_seed": pa.int64(), "lose_seed": pa.int64()},
    **{"win_score": pa.float64(), "lose_score": pa.float64(), "win_note": pa.string(), "lose_note": pa.string()},
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
    steps: Annotated[int, Gt(0), Doc("sampler steps")] = 25
    guidance: Annotated[float, Ge(1), Doc("classifier-free guidance scale; 1 is none")] = 7.5
    batch: Annotated[int, Gt(0), Doc("pairs generated at once, and prompts of a shard")] = 32
    labels: Annotated[Labels | None, Doc("a judge instead of degraded prompts; null: degraded prompts")] = None


def sample(
    run: RunFolder, backbone: Backbone, settings: Sampling, seed: int, accelerator: Accelerator, progress: Progress
) -> None:
    """Generate every missing shard; the processes take turns.

    Raises:
        InputError: The judge cannot read a prompt's row, or finds no two samples of any prompt that differ.
    """
    rows = list(_plan(read_rows(run.prompts), settings, seed))
    shards = [rows[first : first + settings.batch] for first in range(0, len(rows), settings.batch)]
    mine = list(enumerate(shards))[accelerator.process_index :: accelerator.num_processes]
    key = _key(run, settings, seed)
    missing = [(index, shard) for index, shard in mine if not _is_whole(_path(run, index), key)]
    done = sum(map(len, shards)) - sum(len(shard) for _, shard in missing) * accelerator.num_processes
    with progress.task("sample", len(rows), done=max(done, 0)) as advance:
        for index, shard in missing:
            pairs = _label(backbone, shard, settings) if settings.labels else _generate(backbone, shard, settings)
            replace_atomically(_path(run, index), lambda path: _write(path, pairs, key))  # noqa: B023
            advance(len(shard) * accelerator.num_processes, "")
    accelerator.wait_for_everyone()
    sizes = [pq.read_metadata(_path(run, index)).num_rows for index in range(len(shards))]
    if settings.labels:
        progress.say(_yield(sum(sizes), len(rows), settings.labels))
    if accelerator.is_main_process:
        _preview(run, backbone, sizes)
    accelerator.wait_for_everyone()


def read_pairs(run: RunFolder) -> PairData:
    """All pairs of a run.

    Raises:
        InputError: There are none, or a shard is damaged or holds numbers that are not finite.
    """
    paths = sorted(run.pairs.glob("[0-9]*.parquet"))
    if not paths:
        raise InputError(f"{run.pairs}: no pairs: run `ddspo sample` first")
    tables = [_read(path) for path in paths]
    shape = json.loads(tables[0].schema.metadata[b"ddspo"])["shape"]
    columns = {name: [value for table in tables for value in table[name].to_pylist()] for name in ("id", "prompt")}
    degraded = None
    if "degraded" in tables[0].column_names:
        degraded = [value for table in tables for value in table["degraded"].to_pylist()]
    latents = Pair(*(torch.cat([_latents(table, name, shape) for table in tables]) for name in ("win", "lose")))
    for name, part in latents._asdict().items():
        if not torch.isfinite(part).all():
            row = int(torch.nonzero(~torch.isfinite(part.flatten(1)).all(1))[0])
            raise InputError(f"{run.pairs}: {name} of {columns['id'][row]} is not finite: delete its shard, run again")
    return PairData(columns["id"], columns["prompt"], degraded, latents)


def _plan(prompts: Sequence[Row], settings: Sampling, seed: int) -> Iterator[Row]:
    """Which pairs there are to be: prompts in turn, and what is drawn for each."""
    for index in range(settings.pairs):
        turn, place = divmod(index, len(prompts))
        prompt = prompts[place]
        name = f"{prompt['id']}~{turn}"
        start = {"id": name, "prompt": prompt["prompt"]}
        if settings.labels:
            fault = settings.labels.judge.check(prompt)
            if fault:
                raise InputError(f"prompts: {prompt['id']}: {fault}: give a row that sample.labels.judge can read")
            places = range(settings.labels.candidates)
            seeds = [draws.stable_seed(seed, name, "candidate", candidate) for candidate in places]
            yield start | {"item": prompt, "seeds": seeds}
        else:
            variants = prompt["degraded"]
            chosen = variants[draws.stable_seed(seed, name, "variant") % len(variants)]
            yield start | {"degraded": chosen["text"], "seed": draws.stable_seed(seed, name, "latent")}


class _Pairs(NamedTuple):
    """Columns and latents of a shard."""

    rows: Sequence[Row]
    latents: Pair[Tensor]
    schema: Mapping[str, pa.DataType]


def _generate(backbone: Backbone, shard: Sequence[Row], settings: Sampling) -> _Pairs:
    """Both samples of each pair in one batch, from the same initial noise."""
    prompts = [row["prompt"] for row in shard] + [row["degraded"] for row in shard]
    seeds = [row["seed"] for row in shard] * 2
    latents = backbone.generate(prompts, seeds, settings.steps, settings.guidance).cpu().half()
    return _Pairs(shard, split(latents), _SCHEMA)


def _label(backbone: Backbone, shard: Sequence[Row], settings: Sampling) -> _Pairs:
    """Generate and judge all candidates, as many at once as without labels, and keep two of each prompt or none."""
    assert settings.labels
    tasks = [(row["item"], seed) for row in shard for seed in row["seeds"]]
    latents, scores = [], []
    for first in range(0, len(tasks), 2 * settings.batch):
        items, seeds = zip(*tasks[first : first + 2 * settings.batch], strict=True)
        prompts = [item["prompt"] for item in items]
        part = backbone.generate(prompts, seeds, settings.steps, settings.guidance).cpu().half()
        scores += settings.labels.judge(backbone.decode(part.float()), items)
        latents.append(part)
    rows, chosen = [], []
    for number, row in enumerate(shard):
        first, count = number * len(row["seeds"]), len(row["seeds"])
        mine = scores[first : first + count]
        places = best_and_worst([score.value for score in mine], row["seeds"])
        if places:
            rows.append({"id": row["id"], "prompt": row["prompt"]} | _verdict(places, mine, row["seeds"]))
            chosen.append(places.map(lambda place: first + place))  # noqa: B023
    every = torch.cat(latents)
    index = Pair([pair.win for pair in chosen], [pair.lose for pair in chosen])
    return _Pairs(rows, index.map(lambda places: every[places]), _LABELLED)


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


def _write(path: Path, pairs: _Pairs, key: str) -> None:
    columns = {name: pa.array([row[name] for row in pairs.rows], kind) for name, kind in pairs.schema.items()}
    for name, part in pairs.latents._asdict().items():
        columns[name] = pa.array([one.numpy().tobytes() for one in part], pa.binary())
    shape = list(pairs.latents.win.shape[1:])
    table = pa.table(columns).replace_schema_metadata({"ddspo": json.dumps({"key": key, "shape": shape})})
    pq.write_table(table, path)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: damaged ({error}): delete it and run again") from None


def _latents(table: pa.Table, name: str, shape: list[int]) -> Tensor:
    flat = np.frombuffer(b"".join(table[name].to_pylist()), dtype=np.float16)
    return torch.from_numpy(flat.copy()).view(-1, *shape)


def _is_whole(path: Path, key: str) -> bool:
    """Whether a shard exists and belongs to this run; one of another run is an error, not something to overwrite."""
    if not path.exists():
        return False
    found = json.loads(_read(path).schema.metadata[b"ddspo"])["key"]
    if found != key:
        raise InputError(
            f"{path}: made with other settings or prompts: choose another name=..., or use `ddspo sample --fresh`"
        )
    return True


def _key(run: RunFolder, settings: Sampling, seed: int) -> str:
    plain = {name: value for name, value in asdict(settings).items() if name != "labels"}
    # The representation names the judge's class, which its options alone would not.
    made = json.dumps([plain, seed]) + (repr(settings.labels) if settings.labels else "")
    return hashlib.sha256(made.encode() + run.prompts.read_bytes()).hexdigest()[:16]


def _path(run: RunFolder, index: int) -> Path:
    return run.pairs / f"{index:06d}.parquet"


def _preview(run: RunFolder, backbone: Backbone, sizes: Sequence[int]) -> None:
    """Pictures of a few pairs from all over the run, to look at; `sizes` are the shards' lengths."""
    ends = np.cumsum(sizes)
    chosen = np.linspace(0, ends[-1] - 1, min(PREVIEWS, int(ends[-1])), dtype=int)
    shards = np.searchsorted(ends, chosen, side="right")
    places = zip(shards.tolist(), (chosen - ends[shards]).tolist(), strict=True)
    # Counted from the shard's end, where place 0 of the next one would be.
    table = pa.concat_tables([_read(_path(run, shard)).slice(sizes[shard] + row, 1) for shard, row in places])
    shape = json.loads(table.schema.metadata[b"ddspo"])["shape"]
    folder = run.images / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    both = Pair(_latents(table, "win", shape), _latents(table, "lose", shape))
    images = backbone.decode(cat(both).float())
    half = len(images) // 2
    for index in range(half):
        Image.fromarray(images[index]).save(folder / f"{index}-win.png")
        Image.fromarray(images[half + index]).save(folder / f"{index}-lose.png")
    rows = table.drop_columns(["win", "lose"]).to_pylist()
    write_rows(folder / "pairs.jsonl", [{"n": index} | row for index, row in enumerate(rows)])
