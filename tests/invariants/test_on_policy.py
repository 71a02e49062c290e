"""Pairs made anew by the policy, through the real command line: neither a kill nor a second process changes them."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from commands import ROOT, interrupt, run
from interruptions import history
from test_trajectories import digests, weights

from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.run_folder import RunFolder

SETTINGS = [
    *("sample.pairs=12", "sample.batch=2", "sample.steps=3", "train.steps=6", "train.batch=4"),
    *("train.device_batch=2", "train.checkpoint_every=2", "train.keep=9", "train.lr=1e-3"),
    *("on_policy.every=2", "validation.every=0", "validation.final=0", "evaluate=null", "trackers=[]"),
]


def command(out: Path) -> list[str]:
    return ["run", str(ROOT / "recipes/scenes.yaml"), f"out={out}", *SETTINGS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rounds")
    run(command(out))
    return out / "scenes"


def test_a_run_killed_while_a_round_is_made_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("checkpoints", "aligned", "log.jsonl", "rounds"))
    Manifest(RunFolder(folder)).forget(["train", "report"])
    begun = (folder / "rounds" / "0002" / "000001.parquet").exists
    assert interrupt(command(tmp_path), begun, signal.SIGKILL) == -signal.SIGKILL
    run(command(tmp_path))
    ours, theirs = weights(folder), weights(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert digests(folder, "rounds/**/*.*") == digests(whole, "rounds/**/*.*")
    assert {path.parent.name for path in folder.glob("rounds/*/index.json")} == {"0001", "0002"}
    assert history(folder / "log.jsonl") == history(whole / "log.jsonl")


def test_two_processes_make_the_same_rounds(whole: Path, tmp_path: Path) -> None:
    """Round 1 but for rounding of the weights that made it: the same pairs in the same shards."""
    run(command(tmp_path), 2)
    for number in (1, 2):
        one, other = (PairStore.open(RunFolder(each).round(number)) for each in (whole, tmp_path / "scenes"))
        assert one.sizes == other.sizes
        mine, theirs = one.take(range(12)), other.take(range(12))
        assert mine.ids == theirs.ids
        for ours, yours in zip(mine.latents, theirs.latents, strict=True):
            torch.testing.assert_close(ours, yours, rtol=2e-2, atol=2e-2)
