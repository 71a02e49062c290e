"""Benchmarks of large models run at tiny size here, and what they wrote into the recipes is still what they count."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ddspo.downloads import Download
from ddspo.files import write_rows

ROOT = Path(__file__).parents[1]
RECIPES = ("sd15-data-driven", "sdxl-training-free", "sana-training-free")
"""One of each kind: winner and loser, all weights, LoRA; the others come from the same function."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("benchmark", ["gpu_step"], indirect=True)
def test_a_step_of_a_model_with_random_weights(
    benchmark: ModuleType, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU it says that it did not measure memory."""
    monkeypatch.setattr(sys, "argv", ["gpu_step.py", str(tiny_folder), "--steps", "1", "--device", "cpu"])
    benchmark.main()
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == [str(tiny_folder), "lora", "1"]
    assert float(cells[3]) > 0
    assert cells[4] == "not measured without CUDA"


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
    path = ROOT / "recipes" / f"{name}.yaml"
    assert benchmark.needs(path) in path.read_text(encoding="utf-8").splitlines()
