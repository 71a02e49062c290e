"""What base and aligned draw when training has ended: of which prompts, from which seeds, and what is kept of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.progress import Progress
from ddspo.prompts.reading import read_prompts
from ddspo.rows import Row, read_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.stages.final_pictures import FinalPictures
from ddspo.training.validation import Validation

ITEMS = [{"id": f"p{number}", "prompt": f"{number} red cubes"} for number in range(5)]
SETTINGS = Validation(final=3, steps=1, guidance=2.0, batch=2)


@pytest.fixture
def loaded() -> list[Backbone]:
    """Every base that was loaded."""
    return []


@pytest.fixture
def draw(tiny_folder: Path, tmp_path: Path, loaded: list[Backbone]) -> Callable[..., list[Row]]:
    def load() -> Backbone:
        loaded.append(SD.load(Model(str(tiny_folder))))
        return loaded[-1]

    def drawn(settings: Validation = SETTINGS, seed: int = 0) -> list[Row]:
        folder = RunFolder(tmp_path / "run")
        FinalPictures(folder, settings, load, align, ITEMS, seed).draw(Progress(speaks=False))
        return read_rows(folder.samples / "samples.jsonl")

    return drawn


def align(backbone: Backbone) -> None:
    """Makes it another model."""
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter.mul_(0.5)


def pixels(folder: Path, rows: list[Row]) -> dict[str, list[np.ndarray]]:
    return {model: [np.asarray(Image.open(folder / row[model])) for row in rows] for model in MODELS}


def test_both_draw_the_same_prompts_from_the_same_seeds(
    draw: Callable[..., list[Row]], tmp_path: Path, tiny_folder: Path
) -> None:
    """As many as asked for, spread over the list: numbers 0, 2 and 4 of five; the base is the base, and only it."""
    rows = draw()
    assert [row["prompt"] for row in rows] == [ITEMS[number]["prompt"] for number in (0, 2, 4)]
    assert len({row["seed"] for row in rows}) == 3
    found, model = pixels(tmp_path / "run", rows), SD.load(Model(str(tiny_folder)))
    for name in MODELS:
        for row, image in zip(rows, found[name], strict=True):
            (expected,) = model.decode(model.generate([row["prompt"]], [row["seed"]], 1, 2.0))
            assert np.abs(image.astype(int) - expected).max() <= 1  # other batches round otherwise
        align(model)
    assert all((base != aligned).any() for base, aligned in zip(*found.values(), strict=True))


def test_what_is_there_is_not_drawn_again(
    draw: Callable[..., list[Row]], tmp_path: Path, loaded: list[Backbone]
) -> None:
    rows, run = draw(), tmp_path / "run"
    before = pixels(run, rows)
    draw()
    assert len(loaded) == 1
    kept = run / rows[0]["aligned"]
    kept.write_bytes(b"mine")
    (run / rows[1]["aligned"]).unlink()
    draw()
    assert kept.read_bytes() == b"mine"
    assert np.abs(pixels(run, rows[1:])["aligned"][0].astype(int) - before["aligned"][1]).max() <= 1
    assert len(loaded) == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"settings": Validation(final=2, steps=1, guidance=3.0)}])
def test_what_is_of_other_seeds_or_settings_is_thrown_away(
    draw: Callable[..., list[Row]], tmp_path: Path, change: Row
) -> None:
    before = pixels(tmp_path / "run", draw())
    rows = draw(**change)
    files = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.png"))
    assert files == sorted(row[model] for row in rows for model in MODELS)
    assert (pixels(tmp_path / "run", rows)["base"][0] != before["base"][0]).any()


def test_the_list_that_comes_with_the_package() -> None:
    prompts = [row["prompt"] for row in read_prompts(Validation().prompts, "validation.prompts")]
    assert len(set(prompts)) == len(prompts) == 24


def test_without_settings_a_model_is_sampled_as_usual(tiny_folder: Path) -> None:
    backbone = SD.load(Model(str(tiny_folder)))
    assert Validation().how(backbone) == backbone.usual
    assert Validation(steps=3, guidance=1.0).how(backbone) == (3, 1.0)
