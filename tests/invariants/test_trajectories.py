"""What must not change a result, through the real command line: interruptions, accumulation, process count."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from commands import ROOT, interrupt, launched, run
from diffusers import StableDiffusionPipeline
from interruptions import history
from safetensors.torch import load_file

from ddspo.files import write_rows
from ddspo.model_card import text
from ddspo.places import local
from ddspo.rows import read_rows

SETTINGS = [
    "sample.pairs=24",
    "sample.batch=4",
    "sample.steps=3",
    "train.steps=8",
    "train.batch=4",
    "train.device_batch=4",
    "train.checkpoint_every=2",
    "train.lr=1e-4",
    "validation={every: 4, pictures: 2, scored: 2, guidance: 2, steps: 2, final: 2}",
    "evaluate.scales=[1, 2]",
    "evaluate.steps=2",
    "evaluate.images=2",
    "evaluate.validation_images=1",
    "evaluate.batch=6",
]


def command(verb: str, out: Path, *more: str) -> list[str]:
    return [verb, str(ROOT / "recipes/scenes.yaml"), f"out={out}", *SETTINGS, *few_prompts(out), *more]


def few_prompts(out: Path) -> list[str]:
    """One validation and one evaluation prompt a tag."""
    overrides = []
    for key, split in (("prompts", "evaluation"), ("validation", "validation")):
        source = local(f"package://ddspo.scenes/data/{split}.jsonl")
        assert source is not None
        rows = {row["tag"]: row for row in read_rows(source)}
        file = out.parent / f"{split}.jsonl"
        if not file.exists():
            write_rows(file, rows.values())
        overrides.append(f"evaluate.{key}={file}")
    return overrides


def digests(folder: Path, pattern: str) -> dict[str, str]:
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "aligned" / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end without interruption."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    out.mkdir()
    printed = run(command("run", out)).out
    assert printed.splitlines()[-1] == str(out / "scenes" / "report.html")
    assert any(line.startswith("geneval: base ") for line in printed.splitlines())
    return out / "scenes"


def test_the_run_leaves_what_it_promises(whole: Path) -> None:
    result = json.loads((whole / "report.json").read_text())
    geneval = result["metrics"]["geneval"]
    base, aligned = geneval["models"]["base"], geneval["models"]["aligned"]
    assert aligned["difference"] == pytest.approx(aligned["score"] - base["score"])
    low, high = aligned["interval"]
    assert low - 1e-9 <= aligned["difference"] <= high + 1e-9
    assert set(base["by_tag"]) == {row["tag"] for row in read_rows(whole / "scores/geneval.jsonl")}
    assert set(result["stages"]) >= {"degrade", "sample", "train", "images", "judge"}
    log = read_rows(whole / "log.jsonl")
    assert [row["step"] for row in log] == list(range(1, 9))
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert abs(log[0]["u_mean"]) < 1e-5
    assert log[-1]["lose_displacement"] > 0
    assert all(0 < row["seconds"] < 60 for row in log)
    assert text(f"{aligned['difference']:+.3f}") in (whole / "aligned" / "README.md").read_text()


def test_the_result_is_an_ordinary_lora(whole: Path) -> None:
    """Plain diffusers reads it, and it changes the prediction."""
    pipeline = StableDiffusionPipeline.from_pretrained(local("package://ddspo.scenes/noise"), dtype=torch.float32)
    inputs = (torch.ones(1, 8, 8, 8), torch.tensor([500]), torch.ones(1, 16, 96))
    with torch.no_grad():
        before = pipeline.unet(*inputs).sample
        pipeline.load_lora_weights(whole / "aligned")
        after = pipeline.unet(*inputs).sample
    assert not torch.equal(before, after)


def test_a_run_killed_three_times_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    folder, arguments = out / "scenes", command("run", out)
    assert interrupt(arguments, (folder / "pairs" / "000002.parquet").exists, signal.SIGKILL) == -signal.SIGKILL
    kept = digests(folder / "pairs", "[0-9]*.parquet")
    assert interrupt(arguments, (folder / "checkpoints" / "0000004").exists, signal.SIGKILL) == -signal.SIGKILL
    assert kept.items() <= digests(folder / "pairs", "[0-9]*.parquet").items()
    assert interrupt(arguments, lambda: any(folder.glob("images/base/*.png")), signal.SIGINT) == 130
    run(arguments)
    for pattern in (
        "aligned/*.safetensors",
        "pairs/*.parquet",
        "images/**/*.png",
        "tried/**/*.png",
        "scores/*.jsonl",
        "evaluation.json",
        "validation/**/*.png",
    ):
        assert digests(folder, pattern) == digests(whole, pattern), pattern
    assert history(folder / "log.jsonl") == history(whole / "log.jsonl")


def test_accumulation_equals_one_batch(whole: Path, tmp_path: Path) -> None:
    """Twice two pairs are four pairs, within float32 rounding."""
    folder = _before_training(whole, tmp_path / "runs" / "scenes")
    run(command("train", folder.parent, "train.device_batch=2", *_same_prompts(whole)))
    assert_close(folder, whole)


def test_two_processes_equal_one(whole: Path, tmp_path: Path) -> None:
    """The same degraded prompts, seeds, pairs and base images exactly; the same weights within float32 rounding.

    As torchrun starts them, so that they are fresh, and hash otherwise.
    """
    out = tmp_path / "runs"
    out.mkdir()
    launched(command("run", out, "train.device_batch=2"))
    folder = out / "scenes"
    assert (folder / "prompts.jsonl").read_bytes() == (whole / "prompts.jsonl").read_bytes()
    assert digests(folder / "pairs", "*.parquet") == digests(whole / "pairs", "*.parquet")
    assert digests(folder / "images" / "base", "**/*.png") == digests(whole / "images" / "base", "**/*.png")
    assert_close(folder, whole)


def _before_training(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("checkpoints", "aligned", "log.jsonl", "images"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({name: manifest[name] for name in ("degrade", "sample")}))
    return folder


def _same_prompts(whole: Path) -> list[str]:
    return few_prompts(whole.parent)


def assert_close(folder: Path, whole: Path) -> None:
    ours, theirs = weights(folder), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-3, atol=2e-5)
    for ours_row, theirs_row in zip(read_rows(folder / "log.jsonl"), read_rows(whole / "log.jsonl"), strict=True):
        assert ours_row.keys() == theirs_row.keys()
        assert ours_row["loss"] == pytest.approx(theirs_row["loss"], abs=1e-5)
        assert ours_row["grad_norm"] == pytest.approx(theirs_row["grad_norm"], rel=1e-2)
