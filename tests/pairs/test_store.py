"""The store of pairs: what is written is read back, and what is not what was written is found and never used."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.order import Order
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish

SHAPE = (2, 3, 1)
MADE = {"model": "tiny", "revision": None, "dtype": "fp32", "scheduler": "DDIMScheduler", "steps": 3, "guidance": 2.0}
ORIGIN = Origin(MADE | {"seed": 7}, SHAPE, DEGRADED)


def latents(first: int, count: int) -> Pair[torch.Tensor]:
    """Winner k holds k everywhere, loser k holds -k."""
    win = torch.arange(first, first + count).view(-1, 1, 1, 1).expand(count, *SHAPE).float()
    return Pair(win, -win)


def rows(first: int, count: int) -> list[dict[str, Any]]:
    numbers = range(first, first + count)
    return [{"id": f"i{n}", "prompt": f"a {n}", "degraded": f"no {n}", "kind": "words", "seed": n} for n in numbers]


def write(folder: Path, shards: int = 3, parts: int = 2, origin: Origin = ORIGIN) -> Path:
    """Shards of parts of 2 and 1 rows."""
    begin(folder)
    writer, place = PairWriter(folder, origin), 0
    for shard in range(shards):
        left = writer.missing(shard, parts)
        for part in range(parts):
            count = 2 - part
            if left is not None and part in left:
                writer.add(shard, part, rows(place, count), latents(place, count))
            place += count
        if left is not None:
            writer.close(shard, parts)
    finish(folder, shards)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = PairStore.open(write(tmp_path))
    store.verify(SHAPE)
    assert store.sizes == [3, 3, 3]
    assert len(store) == 9
    assert sorted(contents(tmp_path)) == ["000000.parquet", "000001.parquet", "000002.parquet", "index.json"]
    some = store.take([7, 0, 4])
    assert (some.ids, some.prompts, some.degraded) == (
        ["i7", "i0", "i4"],
        ["a 7", "a 0", "a 4"],
        ["no 7", "no 0", "no 4"],
    )
    assert some.latents.win[:, 0, 0, 0].tolist() == [7, 0, 4]
    assert some.latents.lose[:, 1, 2, 0].tolist() == [-7, 0, -4]
    assert sorted(store.texts(degraded=True)) == sorted([f"a {n}" for n in range(9)] + [f"no {n}" for n in range(9)])
    assert list(store.texts(degraded=False)) == [f"a {n}" for n in range(9)]
    assert list(some.texts(degraded=False)) == some.prompts
    assert store.texts_of([7, 0, 4]) == some.texts_of([0, 1, 2]) == (some.ids, some.prompts, some.degraded)


def test_datasets_reads_the_shards(tmp_path: Path) -> None:
    write(tmp_path / "pairs")
    files = str(tmp_path / "pairs" / "*.parquet")
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 9
    assert {name: found[4][name] for name in MADE} == MADE
    assert (found[4]["id"], found[4]["degraded"], found[4]["seed"]) == ("i4", "no 4", 4)
    assert np.frombuffer(found[4]["win"], np.float16).tolist() == [4.0] * math.prod(SHAPE)


def test_a_killed_writer_goes_on_and_ends_alike(tmp_path: Path) -> None:
    """With one part of a shard there, and with all parts there but not merged, the others are made."""
    whole = contents(write(tmp_path / "whole"))
    folder = tmp_path / "killed"
    begin(folder)
    writer = PairWriter(folder, ORIGIN, process=1)
    writer.add(0, 0, rows(0, 2), latents(0, 2))
    writer.add(1, 0, rows(3, 2), latents(3, 2))
    writer.add(1, 1, rows(5, 1), latents(5, 1))
    (folder / ".parts" / ".x.parquet.1.partial").write_bytes(b"half")
    again = PairWriter(folder, ORIGIN)
    assert (again.missing(0, 2), again.missing(1, 2), again.missing(2, 2)) == ([1], [], [0, 1])
    again.close(1, 2)
    assert PairWriter(folder, ORIGIN).missing(1, 2) is None
    assert contents(write(folder)) == whole


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_a_damaged_shard_is_named_never_read_and_made_again(tmp_path: Path, damage: Any) -> None:
    whole = contents(write(tmp_path))
    store = PairStore.open(tmp_path)
    damage(tmp_path / "000001.parquet")
    assert store.take([0]).ids == ["i0"]
    for read in (lambda: PairStore.open(tmp_path).verify(SHAPE), lambda: store.take([0, 4])):
        with pytest.raises(InputError, match=r"000001.parquet"):
            read()
    assert contents(write(tmp_path)) == whole


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path, ORIGIN)
    writer.add(0, 0, rows(0, 2), latents(0, 2))
    (part,) = tmp_path.glob(".parts/*")
    flip(part)
    assert writer.missing(0, 2) == [0, 1]


def test_a_foreign_shard_is_refused(tmp_path: Path) -> None:
    """Of another model under one of our names, and ours under another name; by the writer and by the reader."""
    other = Origin(MADE | {"seed": 7, "model": "another"}, SHAPE, DEGRADED)
    write(tmp_path / "a")
    write(tmp_path / "b", origin=other)
    with pytest.raises(InputError, match=r"000000.parquet: made with another model: choose another name"):
        write(tmp_path / "a", origin=other)
    strange = tmp_path / "a" / "000003.parquet"
    strange.write_bytes((tmp_path / "b" / "000000.parquet").read_bytes())
    for use in (lambda: PairStore.open(tmp_path / "a"), lambda: write(tmp_path / "a")):
        with pytest.raises(InputError, match=r"000003.parquet: not "):
            use()
    strange.rename(tmp_path / "a" / "000000.parquet")
    with pytest.raises(InputError, match=r"000001.parquet: made with another model"):
        PairStore.open(tmp_path / "a")
    mine, theirs = (json.loads((tmp_path / each / "index.json").read_text()) for each in "ab")
    (tmp_path / "a" / "index.json").write_text(json.dumps(mine | {"000000.parquet": theirs["000000.parquet"]}))
    with pytest.raises(InputError, match="made with another model"):
        PairStore.open(tmp_path / "a")


def test_pairs_of_another_model_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    assert len(PairStore.open(tmp_path, model="tiny")) == 9
    with pytest.raises(InputError, match="pairs of model tiny, not of large: make pairs with this one"):
        PairStore.open(tmp_path, model="large")


def test_any_other_parquet_is_no_shard(tmp_path: Path) -> None:
    write(tmp_path)
    pq.write_table(pq.read_table(tmp_path / "000000.parquet").select(["id"]), tmp_path / "000000.parquet")
    with pytest.raises(InputError, match=r"000000.parquet: no shard of pairs"):
        PairStore.open(tmp_path)


def test_latents_that_cannot_be_used_are_not_written(tmp_path: Path) -> None:
    """70000 is above the largest half precision number, 65504."""
    writer, bad = PairWriter(tmp_path, ORIGIN), latents(0, 2)
    bad.lose[1, 0, 2] = 70000
    with pytest.raises(InputError, match="'i1': its lose latent is not finite in half precision"):
        writer.add(0, 0, rows(0, 2), bad)
    with pytest.raises(InputError, match=r"win latents are \[1, 2, 3, 1\], not \[2, 2, 3, 1\]"):
        writer.add(0, 0, rows(0, 2), latents(0, 1))


def test_ids_are_unique(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path, ORIGIN)
    for shard, first in enumerate((0, 5, 1)):
        writer.add(shard, 0, rows(first, 2), latents(first, 2))
        writer.close(shard, 1)
    finish(tmp_path, 3)
    with pytest.raises(InputError, match=r"000002.parquet: id 'i1' is there twice"):
        PairStore.open(tmp_path).verify(SHAPE)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
def test_every_pair_comes_once_a_visit_and_a_window_at_a_time(window: int) -> None:
    order = Order((3, 0, 4, 1, 6, 2), window, seed=5)
    for visit in range(3):
        rows = order.rows(16 * visit, 16)
        assert [order.rows(16 * visit + place, 1)[0] for place in range(16)] == rows
        assert {each for _, each in rows} == {visit}
        assert sorted(row for row, _ in rows) == list(range(16))
        beside = [order.beside(row, visit) for row, _ in rows]
        changes = sum(one != other for one, other in pairwise(beside))
        assert changes == len(set(beside)) - 1
        assert all(len(shards) <= window for shards in beside)


def test_one_window_is_one_permutation() -> None:
    """Whatever the shards, and hence as if all were in one table."""
    whole = Order((16,), 1, seed=5).rows(0, 48)
    assert Order((3, 4, 1, 6, 2), 5, seed=5).rows(0, 48) == whole
    assert len({tuple(row for row, _ in whole[16 * visit : 16 * visit + 16]) for visit in range(3)}) == 3
