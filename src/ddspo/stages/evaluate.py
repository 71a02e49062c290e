"""aligned/ -> images/, scores.jsonl, evaluation.json: base and aligned on the same prompts and seeds.

One model after the other is scored over a grid of guidance scales on validation prompts, and then judged on the
evaluation prompts at the scale that was best for it on validation: no more than one is in memory. Every batch is one
small file, so an interruption loses one batch.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from annotated_types import Ge, Gt, Le, MinLen
from PIL import Image
from typing_extensions import Doc

from ddspo import randomness
from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.digests import digest_of
from ddspo.files import replace_atomically, write_json, write_rows, write_text
from ddspo.maths.frechet import frechet_distance
from ddspo.maths.statistics import overall
from ddspo.metrics.base import Metric, Score, tag_of
from ddspo.progress import Progress
from ddspo.references import read_references
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder

AT_ONCE = 64
"""Images that are decoded at once where features are taken."""


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
        models: Who loads the models to compare, by name ('base', 'aligned').
        items: Rows of the splits 'validation' and 'evaluation'.
    """

    folder: RunFolder
    models: Mapping[str, Callable[[], Backbone]]
    items: Mapping[str, Sequence[Row]]
    settings: Evaluation
    metric_name: str
    seed: int
    accelerator: Accelerator
    progress: Progress
    _references: torch.Tensor | None = field(default=None, init=False, repr=False)

    def run(self) -> None:
        """Choose the scales, judge, and measure what the alignment cost."""
        alone(self._tidy)
        scales: dict[str, float] = {}
        fidelity: dict[str, Row] = {}
        for model, load in self.models.items():
            self._compare(model, load(), scales, fidelity)
            self.accelerator.free_memory()  # before the next is loaded
        alone(lambda: self._gather(scales, fidelity))

    def _tidy(self) -> None:
        """Parts of other batches cover other images: they are made again."""
        for path in self.folder.parts.glob("[!.]*.jsonl"):
            if not path.stem.rpartition("-")[0].endswith(self._size):
                path.unlink()

    def _compare(self, model: str, backbone: Backbone, scales: dict[str, float], fidelity: dict[str, Row]) -> None:
        """All of one model; its fidelity is measured by the first process alone."""
        given = self.settings
        self._score(backbone, "validation", [(model, scale) for scale in given.scales], given.validation_images)
        scales[model] = best({scale: self._overall(model, scale) for scale in given.scales})
        self._score(backbone, "evaluation", [(model, scales[model])], given.images)
        alone(lambda: fidelity.update({model: self._fidelity(backbone, self._rows(f"evaluation-{model}-"))}))

    def _gather(self, scales: Mapping[str, float], fidelity: Mapping[str, Row]) -> None:
        write_rows(self.folder.scores, self._rows("[!.]"))
        write_json(self.folder.evaluation, {"metric": self.metric_name, "scales": scales, "fidelity": fidelity})

    def _score(self, backbone: Backbone, split: str, grid: Sequence[tuple[str, float]], images: int) -> None:
        """Generate and judge every missing batch; the processes take turns."""
        tasks = list(product(range(len(self.items[split])), range(images)))
        jobs = [(*setting, first) for setting in grid for first in range(0, len(tasks), self.settings.batch)]
        # Shared out before looking at what exists, because the others are already writing.
        mine = jobs[self.accelerator.process_index :: self.accelerator.num_processes]
        missing = [job for job in mine if not self._is_whole(self._part(split, *job))]
        each = self.settings.batch * self.accelerator.num_processes
        name = {"validation": "validate", "evaluation": "evaluate"}[split]

        def work() -> None:
            for model, scale, first in missing:
                rows = self._judge(backbone, split, model, scale, tasks[first : first + self.settings.batch])
                self._keep(self._part(split, model, scale, first), rows)
                advance(each, f"{model}, guidance {scale:g}")

        with self.progress.task(name, len(mine) * each, done=(len(mine) - len(missing)) * each) as advance:
            agree(work)

    @property
    def _size(self) -> str:
        return f"x{self.settings.batch}"

    def _part(self, split: str, model: str, scale: float, first: int) -> str:
        """How the name of a batch's file begins; it ends with the digest of what is in it."""
        return f"{split}-{model}-{scale:g}-{first:06d}{self._size}"

    def _keep(self, part: str, rows: Sequence[Row]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self.folder.parts / f"{part}-{_digest(text.encode())}.jsonl", text)

    def _is_whole(self, part: str) -> bool:
        """Whether a batch is there, its images too; what has its name and is damaged goes."""
        for path in self.folder.parts.glob(f"{part}-*.jsonl"):
            whole = _digest(path.read_bytes()) == path.stem.rpartition("-")[2]
            if whole and all(self._has_image(row) for row in read_rows(path)):
                return True
            path.unlink()
        return False

    def _has_image(self, row: Row) -> bool:
        path = self.folder.path / row["image"] if row["image"] else None
        return path is None or (path.is_file() and digest_of(path) == row["sha256"])

    def _rows(self, prefix: str) -> list[Row]:
        return [row for path in sorted(self.folder.parts.glob(f"{prefix}*.jsonl")) for row in read_rows(path)]

    def _judge(
        self, backbone: Backbone, split: str, model: str, scale: float, tasks: Sequence[tuple[int, int]]
    ) -> list[Row]:
        items = [self.items[split][number] for number, _ in tasks]
        seeds = [image_seed(self.seed, split, item, index) for item, (_, index) in zip(items, tasks, strict=True)]
        latents = backbone.generate([item["prompt"] for item in items], seeds, self.settings.steps, scale)
        images = backbone.decode(latents)
        scores = self.settings.metric(images, items)
        rows = []
        for task, item, seed, image, score in zip(tasks, items, seeds, images, scores, strict=True):
            row = _row(task, item, seed, image, score) | {"model": model, "split": split, "scale": scale}
            rows.append(row | (self._save(model, task, image) if split == "evaluation" else {"image": None}))
        return rows

    def _save(self, model: str, task: tuple[int, int], image: np.ndarray) -> Row:
        path = self.folder.images / model / f"{task[0]:05d}_{task[1]}.png"
        replace_atomically(path, lambda partial: Image.fromarray(image).save(partial, format="PNG"))
        return {"image": str(path.relative_to(self.folder.path)), "sha256": digest_of(path)}

    def _overall(self, model: str, scale: float) -> float:
        rows = self._rows(f"validation-{model}-{scale:g}-")
        return overall([row["tag"] for row in rows], [row["value"] for row in rows])

    def _fidelity(self, backbone: Backbone, rows: Sequence[Row]) -> Row:
        """What the images of a model look like, whatever they show. All models have one autoencoder."""
        images = (np.asarray(Image.open(self.folder.path / row["image"])) for row in rows)
        features = _features(backbone, images)
        if self.settings.references and self._references is None:
            self._references = _features(backbone, map(backbone.fit, read_references(self.settings.references)))
        return {
            "confident": float(np.mean([row["confident"] for row in rows])),
            "saturation": float(np.mean([row["saturation"] for row in rows])),
            "distance": frechet_distance(features, self._references) if self._references is not None else None,
            "diversity": _diversity(features, [row["item"] for row in rows]),
        }


def image_seed(seed: int, split: str, item: Row, index: int) -> int:
    """The seed of a prompt's image number `index`, the same for every model and scale."""
    return randomness.stable_seed(seed, split, item["id"], index, "image")


def best(curve: Mapping[float, float]) -> float:
    """The scale of the highest score; of equal ones the smallest."""
    return min(curve, key=lambda scale: (-curve[scale], scale))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _features(backbone: Backbone, images: Iterable[np.ndarray]) -> torch.Tensor:
    """Of any number of images, of which a few are in memory."""
    every = iter(images)
    return torch.cat([backbone.features(part) for part in iter(lambda: list(islice(every, AT_ONCE)), [])])


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
