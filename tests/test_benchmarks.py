"""Benchmarks of large models run at tiny size here, and what they wrote into the recipes is still what they count."""

import argparse
import importlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ddspo.downloads import Download
from ddspo.files import write_rows
from ddspo.maths.pair import Pair
from ddspo.pairs.shards import Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.rows import read_rows

ROOT = Path(__file__).parents[1]
RECIPES = ("sd15-data-driven", "sdxl-training-free", "sana-training-free")
"""One of each kind: winner and loser, all weights, LoRA; the others come from the same function."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("benchmark", ["forwards"], indirect=True)
def test_what_objectives_cost_is_what_the_page_says(benchmark: ModuleType) -> None:
    assert benchmark.table() in (ROOT / "docs/objectives.md").read_text()


@pytest.mark.parametrize("benchmark", ["gpu_step"], indirect=True)
def test_a_step_of_a_model_with_random_weights(
    benchmark: ModuleType, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU it says that it did not measure memory."""
    for how, named in (([], "plain"), (["--quantize", "nf4", "--offload", "--recompute"], "nf4, offload, recompute")):
        monkeypatch.setattr(sys, "argv", ["gpu_step.py", str(tiny_folder), "--steps", "1", "--device", "cpu", *how])
        benchmark.main()
        cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
        assert cells[:4] == [str(tiny_folder), "lora", named, "1"]
        assert float(cells[4]) > 0
        assert cells[5] == "not measured without CUDA"


@pytest.mark.parametrize("benchmark", ["quantized"], indirect=True)
def test_how_far_rounding_moves_what_is_learned_from(
    benchmark: ModuleType, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each way to round; the more bits, the less moves."""
    monkeypatch.setattr(sys, "argv", ["quantized.py", str(tiny_folder), "--latents", "2"])
    benchmark.main()
    rows = [[cell.strip() for cell in row.split("|")[2:-1]] for row in capsys.readouterr().out.splitlines()[2:]]
    moved = {name: float(moves) for name, moves, *_ in rows}
    assert 0 < moved["int8"] < moved["fp8"] < moved["nf4"]


@pytest.mark.parametrize("benchmark", ["sample"], indirect=True)
def test_pairs_a_minute(
    benchmark: ModuleType, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pairs", "4", "--batch", "2", "--steps", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["sample.py", str(tiny_folder), *options])
    benchmark.main()
    found = re.search(
        r"ddspo sample (\d+) pairs a minute, plain loop (\d+), ratio ([\d.]+) \(4 pairs", capsys.readouterr().out
    )
    assert found
    assert float(found[3]) == pytest.approx(int(found[1]) / int(found[2]), rel=0.02)


@pytest.mark.parametrize("benchmark", ["cheap_pairs"], indirect=True)
def test_a_row_of_an_arm_by_hand(benchmark: ModuleType) -> None:
    """Two prompts, two seeds. Seed 1 gains 1 and 0 on them, a mean of .5; seed 2 gains 1 and .5, .75; together .625.

    The prompts' means over the seeds are 1 and .25, so that samples of two prompts have means from .25 to 1. Images of
    one prompt are told apart by their seeds: of equal number, they are compared with none but their own base.
    """
    gains = {1: {"a": 1.0, "b": 0.0}, 2: {"a": 1.0, "b": 0.5}}
    found = []
    for seed, gained in gains.items():
        rows = [
            {"model": model, "item": item, "index": 0, "group": "tag", "control": control, "value": value}
            for item, gain in gained.items()
            for model, value in (("base", seed / 10), ("aligned", seed / 10 + gain))
            for control in (None, "swapped")
        ]
        rows = [row | ({"value": 9.0} if row["control"] else {}) for row in rows]
        found.append(benchmark.Arm(seed, (1200, 34560), rows, [1.0, float(seed)]))
    assert benchmark.row("steps=8", found) == (
        "| steps=8 | 1,200 | 34,560 | +0.625 | +0.250 … +1.000 | +0.500 +0.750 | 1.00 → 1.50 |"
    )


@pytest.mark.parametrize("benchmark", ["cheap_pairs"], indirect=True)
def test_arms_share_pairs_and_the_bases_images(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 pairs are 8 latents of 1 step without guidance, 8 forwards; an update of 4 pairs takes 3 + 3 x 2 for each: 36.

    What is finished is not done again.
    """
    held_out = [row for row in read_rows(ROOT / "src/ddspo/scenes/data/evaluation.jsonl") if row["tag"] == "counting"]
    write_rows(tmp_path / "held-out.jsonl", held_out[:2])
    options = ["evaluate.scales=[3]", "evaluate.images=2", "evaluate.steps=1", "train.batch=4", "train.device_batch=4"]
    references = pq.read_table(ROOT / "src/ddspo/scenes/data/references.parquet")
    pq.write_table(references.slice(0, 8), tmp_path / "few.parquet")
    options += [f"evaluate.references={tmp_path}/few.parquet"]
    options += [f"evaluate.prompts={tmp_path}/held-out.jsonl", "sample.pairs=4", "sample.steps=1", "sample.batch=4"]
    argv = ["cheap_pairs.py", str(ROOT / "recipes/scenes.yaml"), "--seeds", "1", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*argv, "--set", *options, "--arm", "train.steps=1", "train.steps=2"])
    benchmark.main()
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| train")]
    assert [line.split(" | ")[1:3] for line in told] == [["8", "36"], ["8", "72"]]
    assert len(list((tmp_path / "runs").glob("pairs-*"))) == len(list((tmp_path / "runs").glob("base-*"))) == 1
    monkeypatch.setattr(benchmark.Workflow, "start", lambda given: pytest.fail("it is finished"))
    benchmark.main()
    assert capsys.readouterr().out.splitlines()[-2:] == told


TINY = (
    "sample.pairs=4 sample.steps=1 sample.batch=4 train.steps=1 train.batch=4 train.device_batch=4 "
    "evaluate.images=2 evaluate.steps=1 evaluate.prompts={0}/held-out.jsonl evaluate.references={0}/few.parquet"
)


@pytest.mark.parametrize("benchmark", ["evidence"], indirect=True)
def test_methods_are_tuned_and_then_compared(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its learning rate, on one seed and then on another, and the second method against the first.

    A pair takes 3 + 3 x 2 = 9 forwards with a training-free target and 8 without: 36 and 32 for 4 of them.
    """
    held_out = [row for row in read_rows(ROOT / "src/ddspo/scenes/data/evaluation.jsonl") if row["tag"] == "counting"]
    write_rows(tmp_path / "held-out.jsonl", held_out[:2])
    references = pq.read_table(ROOT / "src/ddspo/scenes/data/references.parquet")
    pq.write_table(references.slice(0, 8), tmp_path / "few.parquet")
    few = {name: benchmark.METHODS[name] for name in benchmark.RIVALS}
    for name, value in {"METHODS": few, "RATES": ("1e-3",), "TUNED": (11,), "FRESH": (21,), "FEW": 0}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "BUDGET", TINY.format(tmp_path))
    argv = ["evidence.py", "tune", "methods", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", argv)
    benchmark.main()
    told = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| TF", "| Diff"))]
    assert [line[0] for line in told] == ["| TF-CPP", "| Diffusion-DPO"] * 2
    assert [line[4] for line in told] == ["36", "32"] * 2
    gains = [float(line[5]) for line in told[2:]]
    assert told[2][-1].startswith(f"{gains[0] - gains[1]:+.3f} (")
    monkeypatch.setattr(sys, "argv", [*argv, "--budget"])
    benchmark.main()
    assert capsys.readouterr().out == "tune: 0 runs missing, 0 s\nmethods: 0 runs missing, 0 s\n"
    rows = (tmp_path / "runs/found.jsonl").rename(tmp_path / "elsewhere.jsonl")
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(sys, "argv", [*argv, "--table", "--found", str(rows)])
    benchmark.main()
    kept = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| TF", "| Diff"))]
    assert kept == told


@pytest.mark.parametrize("benchmark", ["records"], indirect=True)
def test_two_processes_keep_their_runs_in_one_file(benchmark: ModuleType, tmp_path: Path) -> None:
    """Neither loses what the other wrote; a run that is kept again takes the place of the first."""
    gain = importlib.import_module("gains").Gain(1, {"a": np.array([0.5, -1.0])}, (2.0, 2.5), (0.5, 1.0))
    which = {"arm": "x", "seed": 1}
    first, second = (benchmark.Records(tmp_path / "found.jsonl") for _ in range(2))
    first.add(which, 60.0, gain)
    second.add(which | {"seed": 2}, 61.0, gain._replace(seed=2))
    first.add(which, 62.0, gain)
    found = benchmark.Records(tmp_path / "found.jsonl")
    assert [found.get(which | {"seed": seed}).seconds for seed in (1, 2)] == [62, 61]
    assert found.get(which | {"seed": 3}) is None
    seed, by_tag, *others = found.get(which).gain
    assert (seed, others) == (1, [(2.0, 2.5), (0.5, 1.0)])
    assert by_tag["a"].tolist() == [0.5, -1.0]
    assert len(read_rows(tmp_path / "found.jsonl")) == 2


def _gains(benchmark: ModuleType, *runs: tuple[float, list[float]]) -> list[Any]:
    """Of one seed, from distances over a base's of 2 and gains of prompts."""
    return [benchmark.Gain(11, {"a": np.array(values)}, (2.0, 2 * ratio), ()) for ratio, values in runs]


@pytest.mark.parametrize("benchmark", ["gains"], indirect=True)
def test_a_gain_at_a_distance_lies_between_the_two_nearest_runs(benchmark: ModuleType) -> None:
    """Runs at 1.1 and 1.3 of the base's distance, given in the other order.

    At 1.05 half of the first one's gains, as the base has none at 1; at 1.2 the mean of both; no run is at 1.4, nor is
    a lone run that came nearer than the base of use beyond it.
    """
    runs = _gains(benchmark, (1.3, [0.2, 0.2]), (1.1, [0.1, 0.3]))
    for mark, gains in ((1.05, [0.05, 0.15]), (1.1, [0.1, 0.3]), (1.2, [0.15, 0.25]), (1.3, [0.2, 0.2])):
        assert benchmark.at_distance(runs, mark)["a"] == pytest.approx(gains)
    assert benchmark.at_distance(runs, 1.4) is None
    nearer = _gains(benchmark, (0.9, [0.1]))
    assert benchmark.at_distance(nearer, 1.05) is None
    assert benchmark.at_distance(nearer, 0.95)["a"] == pytest.approx([0.05])


@pytest.mark.parametrize("benchmark", ["fidelity"], indirect=True)
def test_gains_at_equal_distance_are_those_of_the_seeds_that_reach_it(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rates of a method on two seeds: at 1.05 both have half of .2 and of .4; only the second reaches 1.2."""
    rates = [importlib.import_module("evidence").Case("KTO", "", rate) for rate in ("1e-4", "2e-4")]
    of = {"1e-4": [(1.1, [0.2]), (1.1, [0.4])], "2e-4": [(1.15, [0.2]), (1.3, [0.8])]}

    def founds(_: Any, case: Any) -> list[Any]:
        seeds = zip((11, 12), of[case.arm], strict=True)
        return [each._replace(seed=seed) for seed, run in seeds for each in _gains(benchmark, run)]

    monkeypatch.setattr(benchmark, "founds", founds)
    monkeypatch.setattr(benchmark, "study_of", lambda *_: argparse.Namespace(cases=rates))
    monkeypatch.setattr(sys, "argv", ["fidelity.py", "--marks", "1.05", "1.2", "1.4"])
    benchmark.main()
    row = capsys.readouterr().out.splitlines()[-1]
    assert row == "| KTO | +0.150 (+0.100 … +0.200), 2 | +0.600 (+0.600 … +0.600), 1 |  |"


@pytest.mark.parametrize("benchmark", ["evidence"], indirect=True)
@pytest.mark.parametrize(
    ("distances", "best"), [((2.0, 2.5, 2.6), "3e-4"), ((2.0, 2.6, 2.4), "9e-4"), ((3.0, 2.9, 2.8), "9e-4")]
)
def test_the_rate_of_the_largest_gain_near_fresh_renders_is_chosen(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, distances: Sequence[float], best: str
) -> None:
    """On seed 11 alone, where 9e-4 is not finished on seed 12: .1, .3 and .2. With both, 1e-4 would have .5.

    The base has a distance of 2, so that 2.5 is the most that is chosen; where none is so near the nearest is.
    """
    gains = {("1e-4", 11): 0.1, ("3e-4", 11): 0.3, ("9e-4", 11): 0.2, ("1e-4", 12): 0.9, ("3e-4", 12): 0.1}
    far = dict(zip(benchmark.RATES, distances, strict=True))

    def rate(case: Any) -> str:
        return case.arm.rpartition("=")[2]

    def founds(study: Any, case: Any) -> list[Any]:
        of_each = [gains[rate(case), seed] for seed in study.seeds]
        return [benchmark.Gain(0, {"a": np.array([each])}, (2.0, far[rate(case)]), ()) for each in of_each]

    monkeypatch.setattr(benchmark, "founds", founds)
    monkeypatch.setattr(benchmark, "_done", lambda _, case, seed: (rate(case), seed) in gains)
    tune = benchmark.Study(Path(), [], (11, 12), [], None, {})
    assert benchmark.chosen(tune, {"SFT": "1"}, "KTO") == benchmark.arm_of("KTO", best)
    assert benchmark.chosen(tune, {"KTO": "1"}, "KTO") == benchmark.arm_of("KTO", "1")


@pytest.mark.parametrize("benchmark", ["evidence"], indirect=True)
def test_a_share_of_pairs_is_exchanged(benchmark: ModuleType, tmp_path: Path) -> None:
    """The same ones whenever they are read, and no others; nothing stays changed."""
    begin(tmp_path)
    writer, rows = PairWriter(tmp_path, Origin({"model": "m"}, (1, 2, 2))), list(range(16))
    names = [{"id": f"{row}", "prompt": "a"} for row in rows]
    writer.add(0, 0, names, Pair(torch.randn(16, 1, 2, 2), torch.randn(16, 1, 2, 2)))
    writer.close(0, 1)
    finish(tmp_path, 1)
    store = PairStore.open(tmp_path)
    before = store.take(rows).latents
    with benchmark.exchanged(0.5, seed=3):
        once, again = store.take(rows).latents, store.take(rows[::-1]).latents
    changed = (once.win != before.win).flatten(1).any(1)
    assert 0 < changed.sum() < len(rows)
    assert torch.equal(once.win[changed], before.lose[changed])
    assert torch.equal(once.lose[changed], before.win[changed])
    assert torch.equal(once.lose[~changed], before.lose[~changed])
    assert torch.equal(again.win.flip(0), once.win)
    assert torch.equal(store.take(rows).latents.win, before.win)


@pytest.mark.parametrize("benchmark", ["memory"], indirect=True)
def test_parameters_are_those_that_were_published(benchmark: ModuleType) -> None:
    """Stable Diffusion's UNet has 859.5 M and keeps no buffers."""
    cells = [cell.strip() for cell in benchmark.parameters_row("sd15").strip("|").split("|")]
    assert cells[1:] == ["859.5 M", "860 M", "+0.0%", "0.0 M"]


@pytest.mark.parametrize("benchmark", ["memory"], indirect=True)
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_they_need(
    benchmark: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python benchmarks/memory.py --recipes` writes the lines anew.

    It reads GenEval's prompts, of which only the number counts here: there are 553.
    """
    rows = [{"prompt": f"a photo of thing {number}", "tag": "single_object"} for number in range(553)]
    write_rows(tmp_path / "geneval.jsonl", rows)
    monkeypatch.setattr(Download, "path", lambda self: tmp_path / "geneval.jsonl")
    path = ROOT / "recipes/paper" / f"{name}.yaml"
    assert benchmark.needs(path) in path.read_text(encoding="utf-8").splitlines()
