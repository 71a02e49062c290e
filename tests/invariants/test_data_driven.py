"""What must not change a data-driven run, through the real command line: interruptions and process count."""

import signal
from pathlib import Path

import pytest
import torch
from commands import ROOT, interrupt, run
from interruptions import history
from safetensors.torch import load_file
from test_trajectories import digests

LORA = "pytorch_lora_weights.safetensors"
SETTINGS = [
    *("evaluate=null", "validation.final=0"),
    "sample.pairs=24",
    "sample.batch=8",
    "sample.steps=3",
    *("pretrain.train.steps=4", "pretrain.train.batch=4", "pretrain.train.checkpoint_every=2"),
    *("train.steps=4", "train.batch=4", "train.device_batch=4", "train.checkpoint_every=2"),
    *("train.lr=5e-5", "reference.ema.decay=0.5"),
]


def command(out: Path, *more: str) -> list[str]:
    device = [] if any("pretrain.train.device_batch" in each for each in more) else ["pretrain.train.device_batch=4"]
    return ["run", str(ROOT / "recipes/scenes-data-driven.yaml"), f"out={out}", *SETTINGS, *device, *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(command(out))
    return out / "scenes-data-driven"


def results(folder: Path) -> dict[str, torch.Tensor]:
    parts = {"aligned": folder / "aligned", **{who: folder / "policies" / who for who in ("winner", "loser")}}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in load_file(part / LORA).items()}


def logs(folder: Path) -> list[list[dict[str, float]]]:
    return [history(folder / "pretrain" / "log.jsonl"), history(folder / "log.jsonl")]


def test_the_run_leaves_what_it_promises(whole: Path) -> None:
    """Winner and loser start alike and part; the policy starts at u = 0 and has the moving reference beside it."""
    pretraining, training = logs(whole)
    assert [row["step"] for row in pretraining] == [row["step"] for row in training] == list(range(1, 5))
    assert all(row["loss"] == pytest.approx(row["winner_loss"] + row["loser_loss"]) for row in pretraining)
    assert training[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    found = results(whole)
    assert any(not torch.equal(found[f"winner.{key}"], found[f"loser.{key}"]) for key in load_file_keys(whole))
    kept = load_file(whole / "checkpoints" / "0000004" / "weights.safetensors")
    moved = {name.removeprefix("reference/") for name in kept if name.startswith("reference/")}
    assert moved == {name for name in kept if not name.startswith("reference/")}
    assert (whole / "report.html").exists()


def load_file_keys(folder: Path) -> list[str]:
    return list(load_file(folder / "policies" / "winner" / LORA))


def test_a_run_killed_twice_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    """Once while winner and loser learn, and once while the policy does and its reference moves."""
    folder, arguments = tmp_path / "scenes-data-driven", command(tmp_path)
    for checkpoint in ("pretrain/checkpoints/0000002", "checkpoints/0000002"):
        assert interrupt(arguments, (folder / checkpoint).exists, signal.SIGKILL) == -signal.SIGKILL
    run(arguments)
    ours, theirs = results(folder), results(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert logs(folder) == logs(whole)


def test_two_processes_equal_one(whole: Path, tmp_path: Path) -> None:
    """The same labelled pairs exactly; the same weights of all three within float32 rounding."""
    run(command(tmp_path, "train.device_batch=2", "pretrain.train.device_batch=1"), 2)
    folder = tmp_path / "scenes-data-driven"
    assert digests(folder / "pairs", "*.parquet") == digests(whole / "pairs", "*.parquet")
    ours, theirs = results(folder), results(whole)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-3, atol=2e-5)
    for mine, other in zip(logs(folder), logs(whole), strict=True):
        for ours_row, theirs_row in zip(mine, other, strict=True):
            assert ours_row["loss"] == pytest.approx(theirs_row["loss"], abs=1e-5)
