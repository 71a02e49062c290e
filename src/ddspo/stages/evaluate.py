"""aligned/ -> images/, scores.jsonl, evaluation.json: base and aligned on the same prompts and seeds.

Both are scored over a grid of guidance scales on validation prompts; each is then judged on the evaluation prompts at
the scale that was best for it on validation. Every batch is one small file, so an interruption loses one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from annotated_types import Ge, Gt, Le, MinLen
from PIL import Image
from typing_extensions import Doc

from ddspo import randomness
from ddspo.agreement import alone
from ddspo.backbones.base import Backbone
from ddspo.files import replace_atomically, write_json, write_rows
from ddspo.maths.frechet import frechet_distance
from ddspo.maths.statistics import overall
from ddspo.metrics.base import Metric, Score, tag_of
from ddspo.progress import Progress
from ddspo.references import read_references
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """How base and aligned are compared."""

    metric: Annotated[Metric, Doc("what judges the images")]
    prompts: Annotated[str, Doc("JSONL with the rows that the metric reads; held out from everything else")]
    validation: Annotated[str, Doc("the same for choosing the guidance scale")]
    references: Annotated[
        str | None, Doc("parquet with an `image` column, or folder: two or more real images for fidelity")
    ] = None
    scales: Annotated[
        tuple[Annotated[float, Ge(1), Le(100)], ...], MinLen(1), Doc("guidance scales tried on validation")
    ] = (
        1.0,
        2.0,
        3.0,
        5.0,
        7.5,
    )
    steps: Annotated[int, Gt(0), Le(1000), Doc("sampler steps")] = 25
    images: Annotated[int, Gt(0), Le(10_000), Doc("images a prompt for the headline")] = 4
    validation_images: Annotated[
        int, Gt(0), Le(10_000), Doc("images a prompt, model and scale for choosing the scale")
    ] = 2
    batch: Annotated[int, Gt(0), Doc("images generated at once")] = 64


@dataclass
class Evaluate:
    """One evaluation; `run()` does it all.

    Attributes:
        backbones: The models to compare, by name ('base', 'aligned').
        items: Rows of the splits 'validation' and 'evaluation'.
    """

    folder: RunFolder
    backbones: Mapping[str, Backbone]
    items: Mapping[str, Sequence[Row]]
    settings: Evaluation
    metric_name: str
    seed: int
    accelerator: Accelerator
    progress: Progress

    def run(self) -> None:
        """Choose the scales, judge, and measure what the alignment cost."""
        scales = {model: best(curve) for model, curve in self.validate().items()}
        self._score("evaluation", list(scales.items()), self.settings.images, "evaluate")
        alone(lambda: self._gather(scales))

    def _gather(self, scales: Mapping[str, float]) -> None:
        rows = [row for path in sorted(self.folder.parts.glob("[!.]*.jsonl")) for row in read_rows(path)]
        write_rows(self.folder.scores, rows)
        fidelity = {model: self._fidelity(model, rows) for model in self.backbones}
        write_json(self.folder.evaluation, {"metric": self.metric_name, "scales": scales, "fidelity": fidelity})

    def validate(self) -> dict[str, dict[float, float]]:
        """Overall score on the validation prompts by model and guidance scale."""
        grid = list(product(self.backbones, self.settings.scales))
        self._score("validation", grid, self.settings.validation_images, "validate")
        return {
            model: {scale: self._overall(model, scale) for scale in self.settings.scales} for model in self.backbones
        }

    def _score(self, split: str, grid: Sequence[tuple[str, float]], images: int, name: str) -> None:
        """Generate and judge every missing batch; the processes take turns."""
        tasks = list(product(range(len(self.items[split])), range(images)))
        jobs = [(*setting, first) for setting in grid for first in range(0, len(tasks), self.settings.batch)]
        # Shared out before looking at what exists, because the others are already writing.
        mine = jobs[self.accelerator.process_index :: self.accelerator.num_processes]
        missing = [job for job in mine if not self._part(split, *job).exists()]
        each = self.settings.batch * self.accelerator.num_processes
        with self.progress.task(name, len(mine) * each, done=(len(mine) - len(missing)) * each) as advance:
            for model, scale, first in missing:
                rows = self._judge(split, model, scale, tasks[first : first + self.settings.batch])
                write_rows(self._part(split, model, scale, first), rows)
                advance(each, f"{model}, guidance {scale:g}")
        self.accelerator.wait_for_everyone()

    def _part(self, split: str, model: str, scale: float, first: int) -> Path:
        return self.folder.parts / f"{split}-{model}-{scale:g}-{first:06d}.jsonl"

    def _judge(self, split: str, model: str, scale: float, tasks: Sequence[tuple[int, int]]) -> list[Row]:
        items = [self.items[split][number] for number, _ in tasks]
        seeds = [image_seed(self.seed, split, item, index) for item, (_, index) in zip(items, tasks, strict=True)]
        backbone = self.backbones[model]
        latents = backbone.generate([item["prompt"] for item in items], seeds, self.settings.steps, scale)
        images = backbone.decode(latents)
        scores = self.settings.metric(images, items)
        rows = []
        for task, item, seed, image, score in zip(tasks, items, seeds, images, scores, strict=True):
            row = _row(task, item, seed, image, score) | {"model": model, "split": split, "scale": scale}
            rows.append(row | {"image": self._save(model, task, image) if split == "evaluation" else None})
        return rows

    def _save(self, model: str, task: tuple[int, int], image: np.ndarray) -> str:
        path = self.folder.images / model / f"{task[0]:05d}_{task[1]}.png"
        replace_atomically(path, lambda partial: Image.fromarray(image).save(partial, format="PNG"))
        return str(path.relative_to(self.folder.path))

    def _overall(self, model: str, scale: float) -> float:
        paths = sorted(self.folder.parts.glob(f"validation-{model}-{scale:g}-*.jsonl"))
        rows = [row for path in paths for row in read_rows(path)]
        return overall([row["tag"] for row in rows], [row["value"] for row in rows])

    def _fidelity(self, model: str, rows: Sequence[Row]) -> dict[str, float | None]:
        """What the images look like, whatever they show."""
        mine = [row for row in rows if row["model"] == model and row["split"] == "evaluation"]
        images = [np.asarray(Image.open(self.folder.path / row["image"])) for row in mine]
        backbone = self.backbones[model]
        features = backbone.features(images)
        distance = None
        if self.settings.references:
            references = [backbone.fit(image) for image in read_references(self.settings.references)]
            distance = frechet_distance(features, backbone.features(references))
        return {
            "confident": float(np.mean([row["confident"] for row in mine])),
            "saturation": float(np.mean([row["saturation"] for row in mine])),
            "distance": distance,
            "diversity": _diversity(features, [row["item"] for row in mine]),
        }


def image_seed(seed: int, split: str, item: Row, index: int) -> int:
    """The seed of a prompt's image number `index`, the same for every model and scale."""
    return randomness.stable_seed(seed, split, item["id"], index, "image")


def best(curve: Mapping[float, float]) -> float:
    """The scale of the highest score; of equal ones the smallest."""
    return min(curve, key=lambda scale: (-curve[scale], scale))


def _row(task: tuple[int, int], item: Row, seed: int, image: np.ndarray, score: Score) -> Row:
    pixels = image.astype(np.float32) / 255
    return {
        "item": task[0],
        "index": task[1],
        "seed": seed,
        "tag": tag_of(item),
        "prompt": item["prompt"],
        "value": score.value,
        "confident": score.confident,
        "note": score.note,
        "saturation": round(float((pixels.max(-1) - pixels.min(-1)).mean()), 5),
    }


def _diversity(features: torch.Tensor, items: Sequence[int]) -> float | None:
    """Mean distance between the features of two images of one prompt; None where each has one image."""
    groups: dict[int, list[torch.Tensor]] = {}
    for item, feature in zip(items, features, strict=True):
        groups.setdefault(item, []).append(feature)
    distances = [float((a - b).norm()) for group in groups.values() for a, b in combinations(group, 2)]
    return float(np.mean(distances)) if distances else None
