"""Who else is evaluated: told by its files, drawn like the run's own models, and named where it cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddspo.backbones.base import Model
from ddspo.contestants import contestant
from ddspo.errors import InputError
from ddspo.files import write_json, write_rows
from ddspo.images import read_image
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
seed: 7
model: {path: MODEL, resolution: 32}
prompts: FOLDER/prompts.txt
sample: {pairs: 2, steps: 1, batch: 2}
adaptation: {lora: {rank: 2, alpha: 8}}
train: {steps: 3, batch: 2, device_batch: 2, lr: 0.03, guards: {displacement: .inf}}
validation: {final: 0}
trackers: []
evaluate: {metrics: [saturation], prompts: FOLDER/evaluation.txt, scales: [2], steps: 2, images: 2}
"""
PROMPTS = ("a ball", "a green ball")


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its run, trained and not evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "prompts.txt").write_text("a red cube\ntwo blue spheres\n")
    (folder / "evaluation.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    (folder / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(tiny_folder)).replace("FOLDER", str(folder)))
    Workflow.start(load(folder / "recipe.yaml", [f"out={folder}"])).run(("degrade", "sample", "train"))
    return folder


def elsewhere(folder: Path, prompts: tuple[str, ...] = PROMPTS, images: int = 2) -> Path:
    """Images of another size, with texts beside them."""
    folder.mkdir(parents=True)
    for number, prompt in enumerate(prompts):
        for index in range(images):
            Image.fromarray(np.full((9, 7, 3), 40 * number + index, np.uint8)).save(folder / f"{number}{index}.png")
            (folder / f"{number}{index}.txt").write_text(prompt)
    return folder


def test_each_kind_draws_as_what_it_is(trained: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The run, its LoRA and its whole folder draw what aligned does, the pipeline what base does, to the last bit.

    Images from elsewhere are judged as they are, two of each prompt.
    """
    shutil.copytree(trained / "run", tmp_path / "run")
    others = {
        "lora": trained / "run/aligned",
        "file": trained / "run/aligned/pytorch_lora_weights.safetensors",
        "run": trained / "run",
        "pipeline": tiny_folder,
        "theirs": elsewhere(tmp_path / "theirs"),
    }
    models = ", ".join(f"{name}: {path}" for name, path in others.items())
    given = load(trained / "recipe.yaml", [f"out={tmp_path}", f"evaluate.models={{{models}}}"])
    Workflow.start(given).run(("images", "judge"))
    run = RunFolder(tmp_path / "run")
    images = {
        name: [each.read_bytes() for each in sorted((run.images / name).glob("*.png"))] for name in given_names(run)
    }
    assert [*images] == ["base", "aligned", *others]
    assert all(len(each) == 4 for each in images.values())
    assert images["lora"] == images["file"] == images["run"] == images["aligned"]
    assert images["pipeline"] == images["base"] != images["aligned"]
    assert [read_image(path).shape for path in sorted((run.images / "theirs").glob("*.png"))] == [(9, 7, 3)] * 4
    found = json.loads(run.evaluation.read_text())
    assert found["scales"] == dict.fromkeys(["base", "aligned", *others], 2.0) | {"theirs": None}
    scores = {name: each["score"] for name, each in found["metrics"]["saturation"]["models"].items()}
    assert scores["lora"] == scores["aligned"]
    assert scores["pipeline"] == scores["base"]
    assert scores["theirs"] == 0, "they are grey"
    assert [row["prompt"] for row in read_rows(run.images / "theirs/metadata.jsonl")] == [
        prompt for prompt in PROMPTS for _ in range(2)
    ]


def given_names(run: RunFolder) -> list[str]:
    return json.loads(run.drawn.read_text())["models"]


def test_another_model_is_another_evaluation(trained: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Its files count, not where they lie; what was drawn of other ones is not taken for theirs."""
    shutil.copytree(trained / "run", tmp_path / "run")
    theirs = elsewhere(tmp_path / "theirs")
    overrides = [f"out={tmp_path}", f"evaluate.models={{theirs: {theirs}}}"]
    Workflow.start(load(trained / "recipe.yaml", overrides)).run(("images",))
    shutil.move(theirs, tmp_path / "moved")
    overrides[1] = f"evaluate.models={{theirs: {tmp_path / 'moved'}}}"
    Workflow.start(load(trained / "recipe.yaml", overrides))
    shutil.copyfile(tmp_path / "moved/00.png", tmp_path / "moved/01.png")
    with pytest.raises(InputError, match=r"stage images was begun with another files of evaluate.models"):
        Workflow.start(load(trained / "recipe.yaml", overrides))


def two_models(folder: Path) -> None:
    run = RunFolder(folder)
    for name in ("base", "aligned"):
        elsewhere(run.images / name)
        write_rows(run.images / name / "metadata.jsonl", [{"file_name": "00.png", "prompt": "a ball"}])
    write_json(run.drawn, {"models": ["base", "aligned"]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder: give another, or a hub id"),
        (lambda folder: folder.mkdir(), "nothing says what its images are of"),
        (
            lambda folder: elsewhere(folder, PROMPTS[:1]),
            "no image of 1 of 2 prompts of evaluate.prompts, for example a green ball",
        ),
        (two_models, r"images of several models \(base, aligned\): name one's folder"),
    ],
    ids=["nothing", "empty", "one prompt", "a run's images"],
)
def test_what_cannot_take_part_is_one_line(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    make(folder)
    rows = [{"id": "0", "prompt": prompt} for prompt in PROMPTS]
    with pytest.raises(InputError, match=rf"{message}") as caught:
        contestant("other", str(folder), Model("nowhere"), rows)
    assert "\n" not in str(caught.value)


def test_a_run_in_which_nothing_was_trained(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copyfile(trained / "run/recipe.yaml", tmp_path / "run/recipe.yaml")
    with pytest.raises(InputError, match=r"evaluate.models.other: .*: nothing was trained there: run `ddspo train`"):
        contestant("other", str(tmp_path / "run"), Model("nowhere"), [])


@pytest.mark.parametrize("name", ["base", "pairs", "../x", "", "a b"])
def test_names_that_folders_cannot_have(name: str, trained: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate.models"):
        load(trained / "recipe.yaml", [f"evaluate.models={{'{name}': x}}"])
