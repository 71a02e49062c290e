"""Evaluations by mean brightness: whose images are judged, at which scale, of which seed; and rows of few words."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from ddspo.judging.judging import Judging, References
from ddspo.judging.options import Evaluation
from ddspo.metrics.base import Judge, Measure, Metric, Score, SetJudge, SetMetric, Shown
from ddspo.metrics.saturation import Saturation
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.references import read_references
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.images import Images
from ddspo.stages.judge import Judge as Judged
from ddspo.workflow import Workflow


@dataclass(frozen=True)
class Brightness(Metric):
    """The brighter, the better."""

    title = "brightness"
    reads_prompt = False

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        yield lambda images, rows: [Score(self.look(image)) for image in images]

    def look(self, image: np.ndarray) -> float:
        return float(image.mean()) / 255


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


@dataclass(frozen=True)
class Red(Brightness):
    """The redder, the better."""

    title = "red"
    name = "red"

    def look(self, image: np.ndarray) -> float:
        return float(image[..., 0].mean()) / 255


@dataclass(frozen=True)
class Apart(SetMetric):
    """How far the means of the sets' images are from those of real ones, and how many images there are."""

    title = "apart"
    name = "apart"
    needs_references = True

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        assert references
        real = np.mean([image.mean() for image in references()])

        def judge(images: Iterable[Shown]) -> dict[str, float]:
            found = [shown.image.mean() for shown in images]
            return {"apart": float(abs(np.mean(found) - real)), "images": float(len(found))}

        yield judge


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


def evaluation(metrics: tuple[Measure, ...], **more: Any) -> Evaluation:
    given: dict[str, Any] = {"scales": (1.0, 2.0, 3.0), "steps": 1, "images": 3, "validation_images": 1, "batch": 4}
    return Evaluation(metrics, "evaluation", "validation", **(given | more))


def evaluate(
    run: RunFolder,
    models: Mapping[str, Any],
    items: Mapping[str, Sequence[Row]],
    settings: Evaluation,
    references: References | None = None,
) -> None:
    accelerator, progress = Accelerator(), Progress(speaks=False)
    judging = Judging(accelerator, progress, 4)
    Images(run, models, items, settings, settings.chooser, 5, judging, accelerator, progress).draw()
    Judged(run, settings.metrics, references, judging, dict).judge()


def paint(run: RunFolder, batch: int = 4) -> None:
    items = {split: [{"id": text, "prompt": text} for text in texts] for split, texts in SPLITS.items()}
    models = {"base": lambda: Painter(RED["base"]), "aligned": lambda: Painter(RED["aligned"])}
    evaluate(run, models, items, evaluation((Red(), Saturation()), batch=batch))


def scores(run: RunFolder, split: str, model: str | None = None) -> list[Row]:
    rows = read_rows(run.scores / "red.jsonl")
    return [row for row in rows if row["split"] == split and row["model"] == (model or row["model"])]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "name", ["tried/aligned/2/*_0.png", "images/aligned/*_1.png", "images/base/metadata.jsonl", "scores/red.jsonl"]
)
def test_what_is_damaged_on_the_way_is_made_again(
    name: str, damage: Callable[[Path], None], painted: RunFolder, tmp_path: Path
) -> None:
    """An image or a list of an evaluation that goes on; nothing else is painted again."""
    shutil.copytree(painted.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    file = min(run.path.glob(name))
    times = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.png")}
    damage(file)
    paint(run)
    assert file.read_bytes() == (painted.path / file.relative_to(run.path)).read_bytes()
    assert (run.scores / "red.jsonl").read_bytes() == (painted.scores / "red.jsonl").read_bytes()
    assert run.evaluation.read_bytes() == painted.evaluation.read_bytes()
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) <= 4


def test_an_evaluation_goes_on_with_another_batch(painted: RunFolder, tmp_path: Path) -> None:
    """Whose images are all there: nothing is painted."""
    shutil.copytree(painted.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.png")}
    paint(run, batch=3)
    assert read_rows(run.scores / "red.jsonl") == read_rows(painted.scores / "red.jsonl")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_each_model_is_judged_at_the_scale_that_is_best_for_it(painted: RunFolder) -> None:
    """And at all scales on validation; what is judged is the model's own image."""
    found = json.loads(painted.evaluation.read_text())
    assert (found["scales"], found["choose"], found["models"]) == (BEST, "red", ["base", "aligned"])
    for model, red in RED.items():
        mine = {split: scores(painted, split, model) for split in SPLITS}
        assert {(row["scale"], int(row["item"])) for row in mine["validation"]} == {
            (s, i) for s in red for i in (0, 1)
        }
        assert {row["scale"] for row in mine["evaluation"]} == {BEST[model]}
        assert [row["value"] for each in mine.values() for row in each] == [
            red[row["scale"]] / 255 for each in mine.values() for row in each
        ]
    found = found["metrics"]["red"]
    assert [found["models"][model]["score"] for model in RED] == pytest.approx([60 / 255, 90 / 255])
    assert found["models"]["aligned"]["difference"] == pytest.approx(30 / 255)
    assert found["models"]["aligned"]["won"] == 1
    assert found["curve"]["base"] == pytest.approx({"1": 10 / 255, "2": 60 / 255, "3": 40 / 255})
    assert found["by_scale"]["aligned"]["3"]["difference"] == pytest.approx(50 / 255)


def test_each_image_has_a_seed_of_its_own_which_models_and_scales_share(painted: RunFolder) -> None:
    """The files hold what was judged: the redness of the model, the prompt of the row, the seed of the row."""
    sheets = {("evaluation", model, BEST[model]): painted.images / model for model in RED}
    sheets |= {("validation", model, scale): painted.tried_at(model, scale) for model in RED for scale in RED[model]}
    seeds: dict[tuple[str, int, int], int] = {}
    for (split, model, scale), folder in sheets.items():
        for row in read_rows(folder / "metadata.jsonl"):
            place = split, row["item"], row["index"]
            assert seeds.setdefault(place, row["seed"]) == row["seed"]
            assert (row["prompt"], row["scale"]) == (SPLITS[split][row["item"]], scale)
            colour = np.asarray(Image.open(folder / row["file_name"]))[0, 0].tolist()
            assert colour == [RED[model][scale], 10 * len(row["prompt"]), row["seed"] % 11]
    assert len(set(seeds.values())) == len(seeds) == 2 + 3 * 3
    for (split, item, index), seed in seeds.items():
        assert seed == randomness.stable_seed(5, split, SPLITS[split][item], index, "image")


def test_a_scale_that_is_the_best_of_no_model_is_given_up(tmp_path: Path) -> None:
    """Ten prompts, each with three images: 1 is worse than another with both models, and 2 and 3 with one each.

    So of 1 the first images alone are drawn; with `screening` 0 all are, and the choice is the same.
    """
    items = {split: [{"id": text, "prompt": text} for text in SPLITS[split]] for split in SPLITS}
    items["validation"] = [{"id": f"{n}", "prompt": "x" * (n + 1)} for n in range(10)]
    drawn = {}
    for screening in (0.05, 0.0):
        run = RunFolder(tmp_path / f"{screening}")
        models = {"base": lambda: Painter(RED["base"]), "aligned": lambda: Painter(RED["aligned"])}
        evaluate(run, models, items, evaluation((Red(),), validation_images=3, screening=screening))
        counts = [len(list(run.tried_at("base", scale).glob("*.png"))) for scale in (1, 2, 3)]
        listed = [len(read_rows(run.tried_at("aligned", scale) / "metadata.jsonl")) for scale in (1, 2, 3)]
        assert counts == listed == ([10, 30, 30] if screening else [30, 30, 30])
        drawn[screening] = {
            path.relative_to(run.path): path.read_bytes() for path in sorted(run.path.glob("tried/*/[23]/*.png"))
        }
        assert json.loads(run.drawn.read_text())["scales"] == BEST
    assert drawn[0.05] == drawn[0.0]


def test_colourfulness_is_the_models_own(painted: RunFolder) -> None:
    """Saturation is the largest channel minus the smallest, here (red - blue) / 255, or with more green of green."""
    found = json.loads(painted.evaluation.read_text())["metrics"]["saturation"]["models"]
    for model in RED:
        rows = read_rows(painted.images / model / "metadata.jsonl")
        blue = np.array([row["seed"] % 11 for row in rows]).reshape(3, 3)
        most = np.maximum(RED[model][BEST[model]], [[10], [20], [30]])
        assert found[model]["score"] == pytest.approx((most - blue).mean() / 255, abs=1e-5)


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
  metrics: [saturation]
  prompts: FOLDER/evaluation.jsonl
  validation: FOLDER/validation.jsonl
  scales: [1, 3]
  steps: 2
  images: 2
"""


def test_what_is_judged_is_what_anyone_would_sample(tiny_folder: Path, tmp_path: Path) -> None:
    """Each image again by plain calls: its model read from disk, its prompt, its seed, its scale."""
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo blue spheres\n")
    for name, texts in (("validation", ["a cube"]), ("evaluation", ["a ball", "a green ball"])):
        given = {"tag": "single_object", "include": [{"class": "circle", "count": 1}]}
        write_rows(
            tmp_path / f"{name}.jsonl", [{"id": text[2:].replace(" ", "-"), "prompt": text} | given for text in texts]
        )
    text = RECIPE.replace("MODEL", str(tiny_folder)).replace("FOLDER", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(text)
    stages = ("degrade", "sample", "train", "images", "judge")
    Workflow.start(load(tmp_path / "recipe.yaml", [f"out={tmp_path}"])).run(stages)
    run = RunFolder(tmp_path / "run")
    model = Model(str(tiny_folder), resolution=32)
    models = {"base": SD.load(model), "aligned": SD.load(model)}
    models["aligned"].pipeline.load_lora_weights(run.aligned)
    folders = [run.images / name for name in models] + [
        run.tried_at(name, scale) for name in models for scale in (1, 3)
    ]
    seen: dict[str, list[np.ndarray]] = {name: [] for name in models}
    rows = []
    for folder in folders:
        name = folder.name if folder.name in models else folder.parent.name
        for row in read_rows(folder / "metadata.jsonl"):
            backbone, how = models[name], ([row["prompt"]], [row["seed"]], 2, row["scale"])
            image = np.asarray(Image.open(folder / row["file_name"]))
            again = backbone.decode(backbone.generate(*how))[0]
            assert np.abs(image.astype(int) - again).max() <= 2
            seen[name].append(image.astype(float))
            rows.append(row | {"split": "validation" if folder.parent.name in models else "evaluation"})
    apart = [np.abs(a - b).mean() for a, b in zip(seen["base"][-2:], seen["aligned"][-2:], strict=True)]
    assert min(apart) > 1, "the models differ where the scale is the same"
    assert {row["seed"] for row in rows if row["split"] == "evaluation"} == {
        randomness.stable_seed(7, "evaluation", name, index, "image")
        for name in ("ball", "green-ball")
        for index in range(2)
    }


def test_a_metric_without_tags_and_references_that_are_read_once(tmp_path: Path) -> None:
    """Rows without a tag are one group, whose mean is the score; equal models are equally far from the references."""
    reads: list[int] = []
    for number, width in enumerate((20, 40, 90)):
        save(tmp_path / f"references/{number}.png", number, width=width)

    def read() -> Iterator[np.ndarray]:
        reads.append(1)
        return read_references(str(tmp_path / "references"))

    items = [{"id": f"p{number}", "prompt": "a cat"} | ({"tag": None} if number else {}) for number in range(3)]
    run, backbone = RunFolder(tmp_path / "run"), SD.tiny()
    models = {"base": lambda: backbone, "aligned": lambda: backbone}
    settings = evaluation((Brightness(), Apart()), scales=(1.0,), images=2, references="there")
    evaluate(run, models, {"evaluation": items}, settings, References("digest", read))
    found = json.loads(run.evaluation.read_text())
    values = {model: each["value"] for model, each in found["sets"]["apart"]["models"].items()}
    assert values["base"] == values["aligned"] > 0
    assert found["sets"]["apart"]["models"]["base"]["more"] == {"images": 6}
    assert len(reads) == 1
    bright = found["metrics"][Brightness().name]["models"]
    rows = read_rows(run.scores / f"{Brightness().name}.jsonl")
    mean = np.mean([row["value"] for row in rows if row["model"] == "base"])
    assert bright["base"]["score"] == bright["base"]["by_tag"]["all"] == pytest.approx(mean)
    assert bright["aligned"]["difference"] == 0
    assert bright["aligned"]["won"] == 0.5
    assert (found["choose"], found["scales"]) == (None, {"base": 1.0, "aligned": 1.0})
    assert not run.tried.exists()
