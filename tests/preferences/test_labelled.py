"""Single images that are wanted or not: what rows become, what is kept of them, and what cannot use them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from preference_files import encoded, lines, picture, save
from test_formats import read

from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.preferences._parts import unique
from ddspo.preferences._rows import LeftOut
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

LABELS = [1, 0, -1, True, False, "true", " False", "1", "0", "-1", 1.0, None, 0.5, "good", [1], 2]
WANTED = [True, False, False, True, False, True, False, True, False, False, True]


def table(folder: Path, labels: list[Any]) -> Path:
    for number in range(len(labels)):
        save(folder / f"{number}.png", number)
    rows = [{"image": f"{number}.png", "prompt": f"p {number % 3}", "label": each} for number, each in enumerate(labels)]
    return lines(folder / "t.jsonl", rows)


def test_labels(tmp_path: Path) -> None:
    """Eleven ways to write one; what is none is left out and named."""
    found, left_out = read("labelled", table(tmp_path, LABELS))
    assert [each.wanted for each in found] == WANTED
    assert [each.prompt for each in found[:4]] == ["p 0", "p 1", "p 2", "p 0"]
    assert all(each.sides.win is each.sides.lose for each in found)
    assert np.array_equal(found[4].sides.win.read(), picture(4))
    assert left_out == [(f"t.jsonl:{number}", "no label") for number in range(12, 17)]


def test_scores_become_labels(tmp_path: Path) -> None:
    """With a threshold any number is a score, and the threshold itself is wanted."""
    path = table(tmp_path, [0.4, 5, "5.5", -1, True, "x", None])
    found, left_out = read({"labelled": {"threshold": 5}}, path)
    assert [each.wanted for each in found] == [False, True, True, False, False]
    assert [reason for _, reason in left_out] == ["wrong columns", "no label"]
    with pytest.raises(InputError, match=r"t.jsonl:1: no label: label: 0.4 in place of true .* give dataset.format.labelled.threshold"):
        read("labelled", path)


def test_kinds_of_tables(tmp_path: Path) -> None:
    """CSV has texts, parquet may hold the images; columns go by usual names or by those that are given."""
    save(tmp_path / "0.png", 0)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "caption", "liked"], ["0.png", "a", "True"], ["0.png", "a", "0"]])
    assert [each.wanted for each in read("labelled", tmp_path / "t.csv")[0]] == [True, False]
    rows = [{"jpg": {"bytes": encoded(1), "path": None}, "text": "b", "thumb": -1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    found, _ = read({"labelled": {"label": "thumb"}}, tmp_path)
    assert [(each.prompt, each.wanted) for each in found] == [("b", False)]
    assert np.array_equal(found[0].sides.win.read(), picture(1))
    with pytest.raises(InputError, match=r"no column label but jpg, text, thumb: name it with dataset.format.labelled"):
        read("labelled", tmp_path)


def test_one_image_counts_once_with_each_label(tmp_path: Path) -> None:
    """Wanted by one and unwanted by another is no repetition; the same again is."""
    save(tmp_path / "0.png", 0)
    rows = [{"image": "0.png", "prompt": "p", "label": each} for each in (1, 0, 1, -1)]
    found, _ = read("labelled", lines(tmp_path / "t.jsonl", rows))
    every = list(unique(iter(found)))
    assert [isinstance(each, LeftOut) for each in every] == [False, False, True, True]


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    table(tmp_path / "set", [1, 0, 0, 1, None, -1])
    tree = {
        "name": "run",
        "out": str(tmp_path / "runs"),
        "model": {"path": str(tiny_folder)},
        "dataset": {"source": str(tmp_path / "set/t.jsonl"), "format": "labelled", "batch": 2},
        "policy_pair": "forward_noise",
        "objective": "kto",
        "draw": {"latents": "winner"},
        "adaptation": {"lora": {"rank": 2}},
        "train": {"steps": 2, "batch": 4, "device_batch": 2, "lr": 0.001},
        "validation": {"final": 0},
        "trackers": [],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_run(recipe: Path) -> None:
    """Five of six rows are kept with their labels, one latent each; nothing is degraded or sampled."""
    flow = Workflow.start(load(recipe))
    flow.run()
    run = RunFolder(flow.folder.path)
    assert list(Manifest(run).stages()) == ["import", "train", "report"]
    store = PairStore.open(run.pairs)
    assert (store.sides, store.has_labels, store.has_scores, store.has_seeds) == (("win",), True, False, False)
    some = store.take([4, 0, 1])
    assert some.marks.label is not None
    assert some.marks.label.tolist() == [-1, 1, -1]
    assert some.marks.label.dtype == torch.float32
    assert some.latents.win is some.latents.lose
    assert [row["reason"] for row in read_rows(run.left_out)] == ["no label"]
    log = read_rows(run.log)
    assert log[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert log[1]["win_displacement"] > 0
    assert "lose_displacement" not in log[1] or log[1]["lose_displacement"] == log[1]["win_displacement"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["draw.latents=both"], "draw.latents both: the dataset has one image of each row: set draw.latents=winner"),
        (["draw.noise=independent"], "draw.noise independent: a labelled image is noised once"),
        (["draw.noise=generating"], "draw.noise: generating: of imported pairs nobody keeps"),
        (["policy_pair=data_driven"], "policy_pair: its loser learns from losing images, and the dataset has none"),
        (["policy_pair=training_free"], "a winner's reward is at most 0 there"),
        (["policy_pair=training_free", "force=true"], "TrainingFree reads degraded prompts, and labelled and most"),
        (["objective=logistic"], "objective: logistic compares two images of a prompt, and the dataset has single"),
        (["objective=gap_weight"], "objective: gap_weight"),
        (["objective=sft"], "objective: sft"),
    ],
)
def test_what_single_images_cannot_give(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Workflow.start(load(recipe, overrides))
    assert "\n" not in str(caught.value)
