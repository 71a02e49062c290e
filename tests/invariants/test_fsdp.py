"""Training in shares (FSDP2), through the real command line: what one process makes, on however many."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, begin, run
from interruptions import history
from safetensors.torch import load_file

from ddspo.rows import read_rows

SETTINGS = [
    *("evaluate=null", "validation.every=0", "validation.final=0"),
    *("sample.pairs=12", "sample.batch=4", "sample.steps=1"),
    *("train.steps=4", "train.batch=6", "train.device_batch=1", "train.checkpoint_every=2", "train.lr=1e-4"),
]
FSDP = "train.parallel=fsdp"
VALIDATION = "validation={every: 4, pictures: 2, guidance: 2, steps: 1, final: 0}"
METHODS = {
    "lora": ["reference=ema", "train.average=0.9", "on_policy.every=2", VALIDATION],
    "full": ["adaptation=full", "train.lr=1e-5", "train.gradient_checkpointing=true"],
    "data-driven": [
        *("policy_pair=data_driven", "pretrain.train={steps: 2, batch: 2, device_batch: 1}"),
        *("reference=refreshed", "reference.refreshed.every=2"),
    ],
}


def command(verb: str, out: Path, method: str, *more: str) -> list[str]:
    return [verb, str(ROOT / "recipes/scenes.yaml"), f"out={out}", "name=it", *SETTINGS, *METHODS[method], *more]


@pytest.fixture(scope="module")
def ones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of each method by one process."""
    found = {}
    for method in METHODS:
        out = tmp_path_factory.mktemp(method)
        run(command("run", out, method))
        found[method] = out / "it"
    return found


@pytest.fixture(scope="module")
def lost(ones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two, of which one was killed after a checkpoint; the other ends within a minute, and says why."""
    out, said = tmp_path_factory.mktemp("lost"), tmp_path_factory.mktemp("said")
    folder = untrained(ones["full"], out)
    one, other = begin(command("train", out, "full", FSDP), 2, said=said)
    while not (folder / "checkpoints" / "0000002").exists():
        assert other.is_alive()
        time.sleep(0.01)
    assert other.pid
    os.kill(other.pid, signal.SIGKILL)
    one.join(60)
    assert one.exitcode == 1
    assert "not expected" in (said / "0.err").read_text().strip().splitlines()[-1]
    assert not (folder / "aligned").exists()
    return folder


def untrained(whole: Path, out: Path, *left: str) -> Path:
    """A copy of a run as it was before it was trained, or without some of its files."""
    stages, folder = ("degrade", "sample", "pretrain"), out / "it"
    left = left or ("checkpoints", "log.jsonl", "validation", "rounds")
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("aligned", "report*", *left))
    manifest = json.loads((folder / "manifest.json").read_text())
    kept = {name: value for name, value in manifest.items() if name in stages}
    (folder / "manifest.json").write_text(json.dumps(kept))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "aligned").rglob("*.safetensors"))
    assert files
    return {f"{file.name} {name}": value for file in files for name, value in load_file(file).items()}


def assert_close(folder: Path, whole: Path) -> None:
    """All but a few weights, whose gradients are all but zero, so that their updates have either sign."""
    ours, theirs = weights(folder), weights(whole)
    assert ours.keys() == theirs.keys()
    off, count = 0, 0
    for name, value in ours.items():
        difference = (value.float() - theirs[name].float()).abs()
        off += int((difference > 2e-5 + 2e-3 * theirs[name].float().abs()).sum())
        count += value.numel()
        assert difference.max() < 4e-4, name
    assert off < count / 1000
    for mine, other in zip(read_rows(folder / "log.jsonl"), read_rows(whole / "log.jsonl"), strict=True):
        assert mine.keys() == other.keys()
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)


def test_fsdp_holds_adapters_on_and_off(ones: dict[str, Path], tmp_path: Path) -> None:
    """Beside a reference that follows, a moving average, a round by the policy and pictures, two processes are one."""
    folder = untrained(ones["lora"], tmp_path)
    run(command("train", tmp_path, "lora", FSDP), processes=2)
    assert_close(folder, ones["lora"])
    assert (folder / "validation" / "0000004.png").exists()


def test_fsdp_holds_pretrained_policies(ones: dict[str, Path], tmp_path: Path) -> None:
    """Winner and loser are trained in shares too; then each process has a copy, as between machines."""
    more = [FSDP, "train.shards=1", "pretrain.train.parallel=fsdp"]
    run(command("run", tmp_path, "data-driven", *more), processes=2)
    assert_close(tmp_path / "it", ones["data-driven"])


def test_fsdp_goes_on_to_the_same_bits(ones: dict[str, Path], lost: Path, tmp_path: Path) -> None:
    """All weights beside their frozen copy: after a process was lost as if none had been, which is as one process."""
    whole, again = untrained(ones["full"], tmp_path / "whole"), shutil.copytree(lost, tmp_path / "again" / "it")
    for folder in (whole, again):
        run(command("train", folder.parent, "full", FSDP), processes=2)
    ours, theirs = weights(again), weights(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert history(again / "log.jsonl") == history(whole / "log.jsonl")
    assert_close(again, ones["full"])


@pytest.mark.parametrize("processes", [1, 3])
def test_fsdp_goes_on_with_another_number_of_processes(
    ones: dict[str, Path], lost: Path, tmp_path: Path, processes: int
) -> None:
    """What two have begun; one holds it whole, and takes what they had made until then."""
    folder = shutil.copytree(lost, tmp_path / "it")
    run(command("train", tmp_path, "full", *[FSDP] * (processes > 1)), processes=processes)
    assert_close(folder, ones["full"])
    if processes == 1:
        assert run(["take", str(folder), "2"]).err == ""
        taken = load_file(folder / "aligned" / "unet" / "diffusion_pytorch_model.safetensors")
        for name, value in load_file(ones["full"] / "checkpoints" / "0000002" / "weights.safetensors").items():
            torch.testing.assert_close(taken[name], value, rtol=0, atol=2e-5)


def test_fsdp_goes_on_with_what_one_process_has_begun(ones: dict[str, Path], tmp_path: Path) -> None:
    folder = untrained(ones["full"], tmp_path, "0000004")
    run(command("train", tmp_path, "full", FSDP), processes=2)
    assert_close(folder, ones["full"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["train.shards=2"], "train.shards: every process has all weights with ddp"),
        ([FSDP, "train.shards=2"], "train.shards 2: 1 processes cannot form groups of so many"),
        ([FSDP, "train.optimizer=adafactor"], "train.optimizer adafactor: it needs whole weights"),
        ([FSDP, "train.compile=true"], "train.compile: not with train.parallel fsdp"),
        ([FSDP, "model.quantize=int8"], "train: fsdp shares out weights that model.quantize rounds"),
    ],
)
def test_what_does_not_go_with_fsdp_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in run(command("run", tmp_path, "lora", *options), code=2).err


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_engines_of_a_launcher_are_refused_and_fsdp_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    assert "set train.parallel=fsdp" in run(command("run", tmp_path, "lora"), code=2).err
