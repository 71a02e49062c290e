"""Single images that are wanted or not: what rows become, what is kept of them, and what cannot use them."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from commands import run
from preference_files import encoded, lines, picture, save
from safetensors.torch import load_file
from test_formats import read

from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.maths.pair import Pair
from ddspo.objectives.base import Branches
from ddspo.objectives.kto import KTO
from ddspo.objectives.label_smoothing import LabelSmoothing
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
    rows = [
        {"image": f"{number}.png", "prompt": f"p {number % 3}", "label": each} for number, each in enumerate(labels)
    ]
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
    with pytest.raises(
        InputError, match=r"t.jsonl:1: no label: label: 0.4 in place of true .* give dataset.format.labelled.threshold"
    ):
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
    with pytest.raises(InputError, match=r"no column label but jpg, text, thumb: name it with dataset.form"):
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
    run = flow.folder
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
    assert "lose_displacement" not in log[1]
    page = run.report_html.read_text(encoding="utf-8")
    assert "One image of each prompt, which is wanted or not." in page
    assert page.count("<b>wanted</b>") == 2
    assert page.count("<b>unwanted</b>") == 3


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.aligned / "pytorch_lora_weights.safetensors")


def test_two_processes_and_accumulation_equal_one_batch(recipe: Path) -> None:
    """The mean that kto weighs against runs over all samples of an update: 2 x 1 x 2 = 1 x 2 x 2 = 4.

    Most are wanted, so that the mean is above 0 once the policy moves.
    """
    table(recipe.parent / "set", [1, 1, 0, 1, None, 1])
    longer, found = ["train.steps=4", "train.lr=0.003"], {}
    for name, device in (("one", 4), ("parts", 2)):
        flow = Workflow.start(load(recipe, [*longer, f"name={name}", f"train.device_batch={device}"]))
        flow.run(("import", "train"))
        found[name] = weights(flow.folder)
    run(["run", str(recipe), "name=two", "train.device_batch=1", *longer], 2)
    found["two"] = weights(RunFolder(recipe.parent / "runs/two"))
    for other in ("parts", "two"):
        for name, value in found["one"].items():
            torch.testing.assert_close(found[other][name], value, rtol=1e-4, atol=2e-6)


def test_a_label_turned_round_by_hand() -> None:
    """R = (beta / 2)(2 a d - d^2) = 1/2 (2 x 2 x 1 - 1) = 3/2 of one number with d = 1, a = 2; z = 1/2, so R - z = 1.

    Wanted: sigma(-1), unwanted: sigma(1); of labels of which a quarter is wrong, 3/4 of the one and 1/4 of the other.
    """
    d, a = (torch.full((2, 1), value, dtype=torch.float64) for value in (1.0, 2.0))
    label = torch.tensor([1.0, -1.0], dtype=torch.float64)
    seen = Branches(Pair(d, d), Pair(a, a), label=label, mean=torch.tensor(0.5, dtype=torch.float64))
    kto = KTO(beta=1.0)
    low, high = 1 / (1 + math.e), math.e / (1 + math.e)
    assert kto(seen).tolist() == pytest.approx([low, high], rel=1e-12)
    smooth = LabelSmoothing(kto, 0.25)(seen)
    assert smooth.tolist() == pytest.approx([0.75 * low + 0.25 * high, 0.75 * high + 0.25 * low], rel=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["draw.latents=both"], "draw.latents both: the dataset has one image of each row: set draw.latents=winner"),
        (["draw.noise=independent"], "draw.noise independent: a labelled image is noised once"),
        (["draw.noise=generating"], "draw.noise: generating: of imported pairs nobody knows"),
        (["policy_pair=data_driven"], "policy_pair: its loser learns from losing images, and the dataset has none"),
        (["policy_pair=training_free"], "a winner's reward is at most 0 there"),
        (["policy_pair=training_free", "force=true"], "TrainingFree reads degraded prompts, and labelled and most"),
        (["objective=logistic"], "objective: logistic compares two images of a prompt, and the dataset has single"),
        (["objective=gap_weight"], "objective: gap_weight"),
        (["objective=sft"], "objective: sft"),
        (["objective={sdpo: {of: kto}}"], "objective: sdpo compares two images"),
    ],
)
def test_what_single_images_cannot_give(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Workflow.start(load(recipe, overrides))
    assert "\n" not in str(caught.value)
