"""prompts.jsonl -> pairs/: winning and losing latents from the same initial noise, in parquet shards.

A shard is one generated batch, so its bytes do not depend on who makes it or when; whole shards are kept when an
interrupted run goes on.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

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
from ddspo.progress import Progress
from ddspo.run_folder import Row, RunFolder, read_rows, replace_atomically, write_rows
from ddspo.training.batches import PairData

PREVIEWS = 12
_SCHEMA = {"id": pa.string(), "prompt": pa.string(), "degraded": pa.string(), "seed": pa.int64()}


@dataclass(frozen=True)
class Sampling:
    """How pairs are generated."""

    pairs: Annotated[int, Gt(0), Doc("how many; prompts are used in turn, each time with a new seed")] = 512
    steps: Annotated[int, Gt(0), Doc("sampler steps")] = 25
    guidance: Annotated[float, Ge(1), Doc("classifier-free guidance scale; 1 is none")] = 7.5
    batch: Annotated[int, Gt(0), Doc("pairs generated at once, and the length of a shard")] = 32


def sample(
    run: RunFolder, backbone: Backbone, settings: Sampling, seed: int, accelerator: Accelerator, progress: Progress
) -> None:
    """Generate every missing shard; the processes take turns."""
    rows = list(_plan(read_rows(run.prompts), settings, seed))
    shards = [rows[first : first + settings.batch] for first in range(0, len(rows), settings.batch)]
    mine = list(enumerate(shards))[accelerator.process_index :: accelerator.num_processes]
    key = _key(run, settings, seed)
    missing = [(index, shard) for index, shard in mine if not _is_whole(_path(run, index), key)]
    done = sum(map(len, shards)) - sum(len(shard) for _, shard in missing) * accelerator.num_processes
    with progress.task("sample", len(rows), done=max(done, 0)) as advance:
        for index, shard in missing:
            latents = _generate(backbone, shard, settings)
            replace_atomically(_path(run, index), lambda path: _write(path, shard, latents, key))  # noqa: B023
            advance(len(shard) * accelerator.num_processes, "")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _preview(run, backbone, settings)
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
    degraded = [value for table in tables for value in table["degraded"].to_pylist()]
    latents = Pair(*(torch.cat([_latents(table, name, shape) for table in tables]) for name in ("win", "lose")))
    for name, part in latents._asdict().items():
        if not torch.isfinite(part).all():
            row = int(torch.nonzero(~torch.isfinite(part.flatten(1)).all(1))[0])
            raise InputError(f"{run.pairs}: {name} of {columns['id'][row]} is not finite: delete its shard, run again")
    return PairData(columns["id"], columns["prompt"], degraded, latents)


def _plan(prompts: Sequence[Row], settings: Sampling, seed: int) -> Iterator[Row]:
    """Which pairs there are to be: prompts in turn, a degraded variant and a seed drawn for each."""
    for index in range(settings.pairs):
        turn, place = divmod(index, len(prompts))
        prompt = prompts[place]
        name = f"{prompt['id']}~{turn}"
        variants = prompt["degraded"]
        chosen = variants[draws.stable_seed(seed, name, "variant") % len(variants)]
        noise = draws.stable_seed(seed, name, "latent")
        yield {"id": name, "prompt": prompt["prompt"], "degraded": chosen, "seed": noise}


def _generate(backbone: Backbone, shard: Sequence[Row], settings: Sampling) -> Pair[Tensor]:
    """Both samples of each pair in one batch, from the same initial noise."""
    prompts = [row["prompt"] for row in shard] + [row["degraded"] for row in shard]
    seeds = [row["seed"] for row in shard] * 2
    return split(backbone.generate(prompts, seeds, settings.steps, settings.guidance).cpu().half())


def _write(path: Path, shard: Sequence[Row], latents: Pair[Tensor], key: str) -> None:
    columns = {name: pa.array([row[name] for row in shard], kind) for name, kind in _SCHEMA.items()}
    for name, part in latents._asdict().items():
        columns[name] = pa.array([one.numpy().tobytes() for one in part], pa.binary())
    shape = list(latents.win.shape[1:])
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
    made = json.dumps([asdict(settings), seed]).encode() + run.prompts.read_bytes()
    return hashlib.sha256(made).hexdigest()[:16]


def _path(run: RunFolder, index: int) -> Path:
    return run.pairs / f"{index:06d}.parquet"


def _preview(run: RunFolder, backbone: Backbone, settings: Sampling) -> None:
    """Pictures of a few pairs from all over the run, to look at."""
    chosen = np.linspace(0, settings.pairs - 1, min(PREVIEWS, settings.pairs), dtype=int).tolist()
    places = [divmod(row, settings.batch) for row in chosen]
    table = pa.concat_tables([_read(_path(run, shard)).slice(row, 1) for shard, row in places])
    shape = json.loads(table.schema.metadata[b"ddspo"])["shape"]
    folder = run.images / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    both = Pair(_latents(table, "win", shape), _latents(table, "lose", shape))
    images = backbone.decode(cat(both).float())
    half = len(images) // 2
    for index in range(half):
        Image.fromarray(images[index]).save(folder / f"{index}-win.png")
        Image.fromarray(images[half + index]).save(folder / f"{index}-lose.png")
    rows = table.select(list(_SCHEMA)).to_pylist()
    write_rows(folder / "pairs.jsonl", [{"n": index} | row for index, row in enumerate(rows)])
