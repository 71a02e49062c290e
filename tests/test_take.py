"""`ddspo take`: a kept checkpoint becomes aligned/, and what follows is made again."""

import shutil
from pathlib import Path

import pytest
from test_growth import finished, go, same
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.errors import InputError, Stopped
from ddspo.files import write_rows
from ddspo.manifest import Manifest
from ddspo.rows import read_json, read_rows
from ddspo.run_folder import RunFolder
from ddspo.taking import take
from ddspo.training.guards import best

RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 4, steps: 1, guidance: 1.0, batch: 2}
train: {steps: 3, batch: 2, device_batch: 2, checkpoint_every: 1, keep: 3, lr: 1.0e-3, average: 0.5}
validation: {every: 1, pictures: 2, scored: 2, metric: saturation, final: 2, steps: 1}
trackers: []
"""


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its recipe."""
    return finished(tmp_path_factory.mktemp("take"), RECIPE, tiny_folder, "a red cube\ntwo cats\n")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunFolder:
    """A copy of the run."""
    shutil.copytree(base / "runs", tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / "run")


def test_it_is_what_so_few_updates_leave(base: Path, run: RunFolder, tmp_path: Path) -> None:
    """The averages after two of three updates, their pictures, and a report that says so; nothing is trained again."""
    assert read_json(run.report_json, "")["update"] == 3
    log, picture = run.log.read_bytes(), run.samples / "aligned/00000.png"
    picture.write_bytes(b"of update 3")
    result = CliRunner().invoke(app, ["take", str(run.path), "2"], catch_exceptions=False)
    assert result.output.splitlines()[-1] == f"update 2 -> {run.aligned}"
    assert same(run, go(base, tmp_path / "two", "train.steps=2"))
    assert picture.read_bytes() != b"of update 3"
    assert Manifest(run).is_whole("train")
    before = (run.aligned / "pytorch_lora_weights.safetensors").read_bytes()
    go(base, tmp_path)
    assert (run.aligned / "pytorch_lora_weights.safetensors").read_bytes() == before
    assert run.log.read_bytes() == log
    assert read_json(run.report_json, "")["update"] == 2
    assert "has the weights of update 2." in run.report_html.read_text()


def test_the_best_by_score_is_taken_where_none_is_named(run: RunFolder) -> None:
    assert take(run.path, None) == best(read_rows(run.log))


def test_what_is_not_there_is_said_before_anything_goes(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of update 9: there are those of 1, 2, 3$"):
        take(run.path, 9)
    with pytest.raises(InputError, match=r"no run there"):
        take(tmp_path, None)
    write_rows(run.log, [{"step": step} for step in (1, 2, 3)])
    with pytest.raises(
        InputError, match=r"no score of any that is kept: give the number of one, there are those of 1, 2, 3"
    ):
        take(run.path, None)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(InputError, match=r"no checkpoint: run `ddspo train` first$"):
        take(run.path, None)
    assert run.aligned.is_dir()


def test_a_run_that_a_guard_stopped_ends_with_what_is_taken(base: Path, tmp_path: Path) -> None:
    """Its line names the command."""
    with pytest.raises(Stopped, match=r"`ddspo take .*runs/run` ends with it$"):
        go(base, tmp_path, "train.lr=100", "train.warmup=40", "objective.logistic.beta=3000", "train.steps=40")
    run = RunFolder(tmp_path / "runs" / "run")
    step = take(run.path, None)
    assert Manifest(run).is_whole("train")
    assert Manifest(run).stages()["train"]["update"] == step


def test_training_goes_on_from_the_newest_all_the_same(base: Path, run: RunFolder, tmp_path: Path) -> None:
    take(run.path, 1)
    grown = go(base, tmp_path, "train.steps=4")
    assert same(grown, go(base, tmp_path / "whole", "train.steps=4"))
    assert read_json(grown.report_json, "")["update"] == 4
