"""aligned/ -> images/: every model draws the evaluation prompts from the same seeds; only scales are chosen here.

Where there are several guidance scales, each model first draws the validation prompts at all of them (tried/), and one
metric chooses its scale. One model is in memory at a time, and none while a judge is.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from ddspo import randomness
from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.files import replace_atomically, write_json, write_rows
from ddspo.images import Unreadable, read_image, write_image
from ddspo.judging.judging import Judging
from ddspo.judging.options import Evaluation
from ddspo.judging.pictures import Picture
from ddspo.judging.sheets import METADATA, file_name, read_sheet
from ddspo.maths.statistics import overall
from ddspo.metrics.base import Metric
from ddspo.progress import Progress
from ddspo.rows import Row
from ddspo.run_folder import RunFolder

Loader = Callable[[], Backbone]
"""Gives a model that draws."""


@dataclass(frozen=True)
class Sheet:
    """What one model draws at one scale: `images` images of each row."""

    folder: Path
    split: str
    scale: float
    items: Sequence[Row]
    images: int

    def rows(self, seed: int) -> Iterator[Row]:
        """Its images in order, each with the row that it is drawn from; seeds are those of all models and scales."""
        for number, item in enumerate(self.items):
            for index in range(self.images):
                place = {"file_name": file_name(number, index), "item": number, "index": index}
                yield item | place | {"seed": image_seed(seed, self.split, item, index), "scale": self.scale}


@dataclass(frozen=True)
class Images:
    """The drawing of one run; `draw()` does what is missing of it.

    Attributes:
        models: Who draws, by name; or the pictures that were drawn elsewhere.
        items: Rows of the splits 'validation' and 'evaluation'.
        choose: The metric that chooses scales; None where there is one.
    """

    folder: RunFolder
    models: Mapping[str, Loader | Sequence[Picture]]
    items: Mapping[str, Sequence[Row]]
    settings: Evaluation
    choose: Metric | None
    seed: int
    judging: Judging
    accelerator: Accelerator
    progress: Progress

    def draw(self) -> None:
        """Choose the scales, and draw the evaluation prompts."""
        given = self.settings
        loaders = {name: each for name, each in self.models.items() if callable(each)}
        if self.choose:
            for model, load in loaders.items():
                self._draw(load, [self._tried(model, scale) for scale in given.scales], f"{model} tries")
            scales = self._choose([*loaders])
        else:
            scales = dict.fromkeys(loaders, given.scales[0])
        for model, source in self.models.items():
            if callable(source):
                sheet = Sheet(self.folder.images / model, "evaluation", scales[model], self._evaluation, given.images)
                self._draw(source, [sheet], model)
            else:
                alone(partial(self._copy, model, source))
        chosen = {"models": [*self.models], "scales": {model: scales.get(model) for model in self.models}}
        alone(lambda: write_json(self.folder.drawn, chosen | {"choose": self.choose and self.choose.name}))

    @property
    def _evaluation(self) -> Sequence[Row]:
        return self.items["evaluation"]

    def _tried(self, model: str, scale: float) -> Sheet:
        rows = self.items["validation"]
        return Sheet(self.folder.tried_at(model, scale), "validation", scale, rows, self.settings.validation_images)

    def _draw(self, load: Loader, sheets: Sequence[Sheet], name: str) -> None:
        """Draw every batch of which an image is missing; the processes take turns, and load what they need."""
        batches = [batch for sheet in sheets for batch in self._batches(sheet)]
        # Shared out before looking at what exists, because the others are already writing.
        mine = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        missing = [(sheet, rows) for sheet, rows in mine if not _is_there(sheet, rows)]
        if any(gather_object([bool(missing)])):
            backbone = load()
            agree(partial(self._generate, backbone, missing, len(mine), name))
            del backbone
            self.accelerator.free_memory()  # before the next is loaded
        for sheet in sheets:
            alone(partial(self._list, sheet))

    def _batches(self, sheet: Sheet) -> list[tuple[Sheet, list[Row]]]:
        rows, size = list(sheet.rows(self.seed)), self.settings.batch
        return [(sheet, rows[first : first + size]) for first in range(0, len(rows), size)]

    def _list(self, sheet: Sheet) -> None:
        """Say what the images are of, beside them."""
        write_rows(sheet.folder / METADATA, sheet.rows(self.seed))

    def _generate(
        self, backbone: Backbone, missing: Sequence[tuple[Sheet, Sequence[Row]]], total: int, name: str
    ) -> None:
        each = self.settings.batch * self.accelerator.num_processes
        with self.progress.task("images", total * each, done=(total - len(missing)) * each) as advance:
            for sheet, rows in missing:
                prompts, seeds = [row["prompt"] for row in rows], [row["seed"] for row in rows]
                images = backbone.decode(backbone.generate(prompts, seeds, self.settings.steps, sheet.scale))
                for row, image in zip(rows, images, strict=True):
                    write_image(sheet.folder / row["file_name"], image)
                advance(each, f"{name}, guidance {sheet.scale:g}")

    def _choose(self, models: Sequence[str]) -> dict[str, float]:
        """The scale of each model at which the validation prompts are best followed."""
        metric = self.choose
        assert metric
        grid = [(model, scale) for model in models for scale in self.settings.scales]
        sheets = [read_sheet(self.folder.tried_at(*each)) for each in grid]
        scores = iter(self.judging.scores(metric, [picture for sheet in sheets for picture in sheet]))
        curves: dict[str, dict[float, float]] = {model: {} for model in models}
        for (model, scale), sheet in zip(grid, sheets, strict=True):
            groups, values = [metric.group(picture.row) for picture in sheet], [next(scores).value for _ in sheet]
            curves[model][scale] = overall(groups, values)
        sign = 1 if metric.higher_is_better else -1
        return {
            model: best({scale: sign * value for scale, value in curve.items()}) for model, curve in curves.items()
        }

    def _copy(self, model: str, pictures: Sequence[Picture]) -> None:
        """Take over what was drawn elsewhere, image by image, for the prompts of the evaluation."""
        theirs = {(picture.item, picture.index): picture.path for picture in pictures}
        rows = []
        for number, item in enumerate(self._evaluation):
            for index in range(self.settings.images):
                path = theirs.get((item["prompt"], index))
                if path:
                    name = f"{file_name(number, index).removesuffix('.png')}{path.suffix.lower()}"
                    target = self.folder.images / model / name
                    if not _is_whole(target):
                        replace_atomically(target, partial(shutil.copyfile, path))
                    rows.append(
                        item | {"file_name": name, "item": number, "index": index, "seed": None, "scale": None}
                    )
        write_rows(self.folder.images / model / METADATA, rows)


def image_seed(seed: int, split: str, item: Row, index: int) -> int:
    """The seed of a prompt's image number `index`, the same for every model and scale."""
    return randomness.stable_seed(seed, split, item["id"], index, "image")


def best(curve: Mapping[float, float]) -> float:
    """The scale of the highest score; of equal ones the smallest."""
    return min(curve, key=lambda scale: (-curve[scale], scale))


def _is_there(sheet: Sheet, rows: Sequence[Row]) -> bool:
    return all(_is_whole(sheet.folder / row["file_name"]) for row in rows)


def _is_whole(path: Path) -> bool:
    """Whether an image was drawn, and can be read."""
    try:
        return path.is_file() and read_image(path) is not None
    except Unreadable:
        return False
