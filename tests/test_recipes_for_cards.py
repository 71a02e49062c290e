"""Recipes of `recipes/24gb` and `recipes/12gb`: plans of `ddspo align`, held against `--cost` of the true models."""

import re
from pathlib import Path

import pytest

from benchmarks import outlines
from ddspo.adaptations.lora import LoRA
from ddspo.align.machine import CARD
from ddspo.cost.total import cost
from ddspo.recipe import load

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*gb/*.yaml"))
ARCHITECTURES = {"sana": "sana-1600m", "pixart": "pixart-sigma"}
"""Of recipes whose name is no architecture's."""
COUNTED = ("12gb/sd15", "24gb/flux-dev", "12gb/sana")
"""One without quantisation, one with it, and one with another autoencoder; each takes its time."""


def place(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=place)
def test_each_is_a_plan_for_its_card(path: Path) -> None:
    """A LoRA, composed prompts, and a header that says hours, GiB, what was not tried, and sources."""
    recipe, text = load(path), path.read_text()
    card = int(path.parent.name.removesuffix("gb"))
    assert isinstance(recipe.adaptation, LoRA)
    assert recipe.prompts
    assert recipe.prompts.path.startswith("compose://")
    assert recipe.evaluate
    assert str(recipe.evaluate.prompts).startswith("compose://")
    assert recipe.model.quantize is None or path.stem not in ("sd15", "sdxl")
    assert f"--memory {card}GB" in text
    assert max(float(row[0]) for row in needs(text).values()) <= CARD * card
    assert re.search(r"^# Not run here: .*^# Sources: ", text, re.MULTILINE | re.DOTALL)
    assert re.search(r"^# all +\S+ \w+ +at an assumed \d+ TFLOP/s", text, re.MULTILINE)


@pytest.mark.parametrize("name", COUNTED)
def test_the_header_is_what_cost_counts(name: str, tmp_path: Path) -> None:
    """`python benchmarks/cards.py` writes all of them anew."""
    path = FOLDER / f"{name}.yaml"
    folder = outlines.write(ARCHITECTURES.get(path.stem, path.stem), tmp_path / path.stem)
    found = cost(load(path, [f"model.path={folder}"]))
    said = needs(path.read_text())
    assert said == {
        stage.name: (f"{stage.device_bytes / 2**30:.1f}", f"{stage.host_bytes / 2**30:.1f}") for stage in found.stages
    }


def needs(text: str) -> dict[str, tuple[str, str]]:
    """GiB of the card and of main memory by stage, as the header has them."""
    rows = re.findall(r"^# (\w+) +[\d.]+ \w+(?: [\d.]+ \w+)? +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    return {name: (device, host) for name, device, host in rows}
