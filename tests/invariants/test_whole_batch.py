"""Objectives that read a mean over the whole batch of an update: the same however that is split, or cut short."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from interruptions import history, killed_at
from test_trajectories import assert_close, weights

from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.workflow import Workflow

SCENES = ROOT / "recipes/scenes.yaml"
SETTINGS = [
    *("sample.pairs=12", "sample.batch=12", "sample.steps=2", "sample.guidance=1", "policy_pair=forward_noise"),
    *("train.steps=5", "train.batch=4", "train.device_batch=4", "train.checkpoint_every=2", "train.lr=1e-4"),
    *("trackers=[]", "validation.every=0", "validation.final=0", "evaluate=null"),
]
FAR = 1.5e-6
OBJECTIVES = {
    "kto": "objective={label_smoothing: {of: {kto: {beta: 300}}}}",
    "dspo_sdxl": f"objective={{dspo_sdxl: {{beta: 300, far: {FAR}}}}}",
}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pairs, and nothing trained."""
    out = tmp_path_factory.mktemp("sampled")
    Workflow.start(load(SCENES, [f"out={out}", *SETTINGS])).run(("degrade", "sample"))
    return out / "scenes"


@pytest.fixture(scope="module", params=OBJECTIVES)
def whole(request: pytest.FixtureRequest, sampled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An objective, and a run of it whose updates are one batch in one process."""
    folder = trained(tmp_path_factory.mktemp("whole"), sampled, OBJECTIVES[request.param])
    if request.param == "dspo_sdxl":
        far = [row["win_displacement"] >= FAR for row in read_rows(folder / "log.jsonl")]
        assert set(far) == {False, True}, "it is of both forms"
    return OBJECTIVES[request.param], folder


def trained(out: Path, sampled: Path, *more: str) -> Path:
    """Goes on with a run that is there."""
    if not (out / "scenes").exists():
        shutil.copytree(sampled, out / "scenes")
    Workflow.start(load(SCENES, [f"out={out}", *SETTINGS, *more])).run(("train",))
    return out / "scenes"


def test_accumulation_equals_one_batch(whole: tuple[str, Path], sampled: Path, tmp_path: Path) -> None:
    objective, folder = whole
    assert_close(trained(tmp_path, sampled, objective, "train.device_batch=1"), folder)


def test_two_processes_equal_one(whole: tuple[str, Path], sampled: Path, tmp_path: Path) -> None:
    """Of two micro-batches each, by the real command line."""
    objective, folder = whole
    shutil.copytree(sampled, tmp_path / "scenes")
    run(["train", str(SCENES), f"out={tmp_path}", *SETTINGS, objective, "train.device_batch=1"], 2)
    assert_close(tmp_path / "scenes", folder)


def test_resumed_is_uninterrupted(
    whole: tuple[str, Path], sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, folder = whole
    with monkeypatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, sampled, objective)
    ours, theirs = weights(trained(tmp_path, sampled, objective)), weights(folder)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert history(tmp_path / "scenes/log.jsonl") == history(folder / "log.jsonl")
