"""Evaluations by mean brightness: whose images are judged, at which scale, of which seed; and rows of few words."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from damage import DAMAGE
from PIL import Image
from preference_files import save

from ddspo import randomness
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.files import write_rows
from ddspo.metrics.base import Metric, Score
from ddspo.metrics.geneval import GenEval
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.references import read_references
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages import evaluate as stage
from ddspo.stages.evaluate import Evaluate, Evaluation
from ddspo.stages.report import report
from ddspo.workflow import Workflow


class Brightness(Metric):
    """The brighter, the better."""

    def check(self, item: Mapping[str, Any]) -> None:
        """Every prompt will do."""

    def __call__(self, images: Sequence[np.ndarray], items: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [Score(float(image.mean()) / 255, True) for image in images]


class Painter:
    """In place of a backbone: one colour an image, of which red is the scale's, green the prompt's, blue the seed's.

    Attributes:
        red: By guidance scale.
    """

    def __init__(self, red: Mapping[float, int]) -> None:
        self.red = red

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, scale: float) -> torch.Tensor:
        rows = zip(prompts, seeds, strict=True)
        return torch.tensor([[self.red[scale], 10 * len(prompt), seed % 11] for prompt, seed in rows])

    def decode(self, latents: torch.Tensor) -> list[np.ndarray]:
        return [np.full((2, 2, 3), colour, np.uint8) for colour in latents.tolist()]

    def features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.tensor(np.stack(images)[:, 0, 0], dtype=torch.float32)


class Red(Brightness):
    """The redder, the better."""

    def __call__(self, images: Sequence[np.ndarray], items: Sequence[Mapping[str, Any]]) -> list[Score]:
        return super().__call__([image[..., 0] for image in images], items)


RED = {"base": {1.0: 10, 2.0: 60, 3.0: 40}, "aligned": {1.0: 20, 2.0: 70, 3.0: 90}}
BEST = {"base": 2.0, "aligned": 3.0}
"""The redness of each model by scale, and the scale at which it is reddest."""
SPLITS = {"validation": ["x", "xx"], "evaluation": ["y", "yy", "yyy"]}


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two validation prompts with an image a scale; three evaluation prompts with three images; batches of four."""
    run = RunFolder(tmp_path_factory.mktemp("painted"))
    paint(run)
    return run


def paint(run: RunFolder, batch: int = 4) -> None:
    items = {split: [{"id": text, "prompt": text} for text in texts] for split, texts in SPLITS.items()}
    Evaluate(
        folder=run,
        models={"base": lambda: Painter(RED["base"]), "aligned": lambda: Painter(RED["aligned"])},  # type: ignore[dict-item]
        items=items,
        settings=Evaluation(Red(), "", "", None, (1.0, 2.0, 3.0), 1, 3, 1, batch),
        metric_name="red",
        seed=5,
        accelerator=Accelerator(),
        progress=Progress(speaks=False),
    ).run()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "name", ["scores/validation-*", "scores/evaluation-*", "images/aligned/*_1.png", "scores.jsonl"]
)
def test_what_is_damaged_on_the_way_is_made_again(
    name: str, damage: Callable[[Path], None], painted: RunFolder, tmp_path: Path
) -> None:
    """A part or an image of an evaluation that goes on; nothing else is painted again."""
    shutil.copytree(painted.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    file = min(run.path.glob(name))
    times = {path: path.stat().st_mtime_ns for path in run.images.rglob("*.png")}
    damage(file)
    paint(run)
    assert file.read_bytes() == (painted.path / file.relative_to(run.path)).read_bytes()
    assert run.scores.read_bytes() == painted.scores.read_bytes()
    assert run.evaluation.read_bytes() == painted.evaluation.read_bytes()
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) <= 4


def test_an_evaluation_goes_on_with_another_batch(painted: RunFolder, tmp_path: Path) -> None:
    """Parts of both sizes would count images twice."""
    shutil.copytree(painted.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    paint(run, batch=3)
    assert read_rows(run.scores) == read_rows(painted.scores)
    assert {path.name.partition("x")[2][:2] for path in run.parts.iterdir()} == {"3-"}


def test_each_model_is_judged_at_the_scale_that_is_best_for_it(painted: RunFolder) -> None:
    """And at all scales on validation; what is judged is the model's own image."""
    assert json.loads(painted.evaluation.read_text())["scales"] == BEST
    rows = read_rows(painted.scores)
    for model, red in RED.items():
        mine = {split: [row for row in rows if (row["model"], row["split"]) == (model, split)] for split in SPLITS}
        assert {(row["scale"], row["item"]) for row in mine["validation"]} == {(s, i) for s in red for i in range(2)}
        assert {row["scale"] for row in mine["evaluation"]} == {BEST[model]}
        assert [row["value"] for each in mine.values() for row in each] == [
            red[row["scale"]] / 255 for each in mine.values() for row in each
        ]
    report(painted, "painted")
    found = json.loads(painted.report_json.read_text())["metrics"]["red"]
    assert (found["base"], found["aligned"]) == pytest.approx((60 / 255, 90 / 255))
    assert found["curve"]["base"] == pytest.approx({"1": 10 / 255, "2": 60 / 255, "3": 40 / 255})
    assert found["by_scale"]["3"]["difference"] == pytest.approx(50 / 255)


def test_each_image_has_a_seed_of_its_own_which_models_and_scales_share(painted: RunFolder) -> None:
    """The files hold what was judged: the redness of the model, the prompt of the row, the seed of the row."""
    rows = read_rows(painted.scores)
    places = {(row["split"], row["item"], row["index"]): row["seed"] for row in rows}
    assert all(row["seed"] == places[row["split"], row["item"], row["index"]] for row in rows)
    assert len(set(places.values())) == len(places) == 2 + 3 * 3
    for (split, item, index), seed in places.items():
        assert seed == randomness.stable_seed(5, split, SPLITS[split][item], index, "image")
    shown = [row for row in rows if row["split"] == "evaluation"]
    assert len({row["image"] for row in shown}) == len(shown) == 2 * 3 * 3
    for row in shown:
        colour = np.asarray(Image.open(painted.path / row["image"]))[0, 0].tolist()
        assert row["prompt"] == SPLITS["evaluation"][row["item"]]
        assert colour == [RED[row["model"]][BEST[row["model"]]], 10 * len(row["prompt"]), row["seed"] % 11]


def test_diversity_is_within_a_prompt_and_colourfulness_is_the_models_own(painted: RunFolder) -> None:
    """Images of one prompt differ in blue alone, by |b - b'|; a prompt has three pairs.

    Saturation is the largest channel minus the smallest, here (red - blue) / 255, or with more green (green - blue).
    """
    fidelity = json.loads(painted.evaluation.read_text())["fidelity"]
    for model in RED:
        rows = [r for r in read_rows(painted.scores) if (r["model"], r["split"]) == (model, "evaluation")]
        blue = np.array([row["seed"] % 11 for row in rows]).reshape(3, 3)
        assert np.ptp(blue) > 0
        apart = np.mean([abs(b[i] - b[j]) for b in blue for i, j in ((0, 1), (0, 2), (1, 2))])
        assert fidelity[model]["diversity"] == pytest.approx(apart)
        most = np.maximum(RED[model][BEST[model]], [[10], [20], [30]])
        assert fidelity[model]["saturation"] == pytest.approx((most - blue).mean() / 255, abs=1e-5)
        assert fidelity[model]["distance"] is None


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
evaluate:
  metric: {geneval: {detector: scenes}}
  prompts: FOLDER/evaluation.jsonl
  validation: FOLDER/validation.jsonl
  scales: [1, 3]
  steps: 2
  images: 2
"""


def test_what_is_judged_is_what_anyone_would_sample(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row again by plain calls: its model read from disk, its prompt, its seed, its scale."""
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo blue spheres\n")
    for name, texts in (("validation", ["a cube"]), ("evaluation", ["a ball", "a green ball"])):
        given = {"tag": "single_object", "include": [{"class": "circle", "count": 1}]}
        write_rows(
            tmp_path / f"{name}.jsonl", [{"id": text[2:].replace(" ", "-"), "prompt": text} | given for text in texts]
        )
    text = RECIPE.replace("MODEL", str(tiny_folder)).replace("FOLDER", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.setattr(GenEval, "__call__", lambda _, *given: Brightness()(*given))
    Workflow.start(load(tmp_path / "recipe.yaml", [f"out={tmp_path}"])).run(("degrade", "sample", "train", "evaluate"))
    run = RunFolder(tmp_path / "run")
    model = Model(str(tiny_folder), resolution=32)
    models = {"base": SD.load(model), "aligned": SD.load(model)}
    models["aligned"].pipeline.load_lora_weights(run.aligned)
    rows = read_rows(run.scores)
    for row in rows:
        backbone = models[row["model"]]
        image = backbone.decode(backbone.generate([row["prompt"]], [row["seed"]], 2, row["scale"]))[0]
        assert row["value"] == pytest.approx(image.mean() / 255, abs=2e-3)
    values = {model: np.array([row["value"] for row in rows if row["model"] == model]) for model in models}
    assert np.abs(values["base"] - values["aligned"]).min() > 5e-3
    assert {row["seed"] for row in rows if row["split"] == "evaluation"} == {
        randomness.stable_seed(7, "evaluation", name, index, "image")
        for name in ("ball", "green-ball")
        for index in range(2)
    }


def test_a_metric_without_tags_and_references_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without a tag are one group, whose mean is the score; equal models are equally far from the references.

    These are read and encoded once for both.
    """
    places: list[str] = []
    monkeypatch.setattr(stage, "read_references", lambda place: places.append(place) or read_references(place))
    for number, width in enumerate((20, 40, 90)):
        save(tmp_path / f"references/{number}.png", number, width=width)
    items = [{"id": f"p{number}", "prompt": "a cat"} | ({"tag": None} if number else {}) for number in range(3)]
    run, backbone = RunFolder(tmp_path / "run"), SD.tiny()
    Evaluate(
        folder=run,
        models={"base": lambda: backbone, "aligned": lambda: backbone},
        items={"validation": items[:1], "evaluation": items},
        settings=Evaluation(Brightness(), "", "", str(tmp_path / "references"), (1.0,), 1, 2, 1, 4),
        metric_name="brightness",
        seed=0,
        accelerator=Accelerator(),
        progress=Progress(speaks=False),
    ).run()
    assert places == [str(tmp_path / "references")]
    distances = [found["distance"] for found in json.loads(run.evaluation.read_text())["fidelity"].values()]
    assert distances[0] == distances[1] > 0
    report(run, "bright")
    found = json.loads(run.report_json.read_text())["metrics"]["brightness"]
    values = [row["value"] for row in read_rows(run.scores) if (row["model"], row["split"]) == ("base", "evaluation")]
    assert found["base"] == found["by_tag"]["all"]["base"] == np.mean(values)
