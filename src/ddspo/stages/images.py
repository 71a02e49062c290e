"""aligned/ -> images/: every model draws the evaluation prompts from the same seeds; only scales are chosen here.

Where there are several guidance scales, each model first draws the validation prompts at all of them (tried/), and one
metric chooses its scale. A scale that the first image of each prompt shows to be the best of no model is given up. One
model is in memory at a time, and none while a judge is.
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
from ddspo.judging.scales import Scored, best, can_show, may_be_best
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
    """What one model draws at one scale: `images` images of each row, of which the first `there` have been drawn."""

    folder: Path
    split: str
    scale: float
    items: Sequence[Row]
    images: int
    there: int = 0

    def rows(self, seed: int, first: int = 0) -> Iterator[Row]:
        """Its images in order, each with the row that it is drawn from; seeds are those of all models and scales."""
        for number, item in enumerate(self.items):
            for index in range(first, self.images):
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
        scales = self._chosen(loaders) if self.choose else dict.fromkeys(loaders, given.scales[0])
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

    def _chosen(self, loaders: Mapping[str, Loader]) -> dict[str, float]:
        """The scale of each model at which the validation prompts are best followed."""
        given, scales, drawn = self.settings, list(self.settings.scales), 0
        prompts = len(self.items["validation"])
        if given.validation_images > 1 and can_show(prompts, len(scales), given.screening):
            drawn = 1
            self._try(loaders, scales, drawn)
            scales = self._screened(self._scored([*loaders], scales))
        if len(scales) > 1:
            self._try(loaders, scales, given.validation_images, drawn)
        found = self._scored([*loaders], scales)
        return {model: best({scale: overall(*each) for scale, each in found[model].items()}) for model in loaders}

    def _try(self, loaders: Mapping[str, Loader], scales: Sequence[float], images: int, there: int = 0) -> None:
        """Draw so many images of each validation prompt, with every model and scale."""
        rows = self.items["validation"]
        for model, load in loaders.items():
            folders = [(self.folder.tried_at(model, scale), scale) for scale in scales]
            sheets = [Sheet(folder, "validation", scale, rows, images, there) for folder, scale in folders]
            self._draw(load, sheets, f"{model} tries")

    def _screened(self, found: Mapping[str, Scored]) -> list[float]:
        """The scales that may be the best of some model."""
        kept = set().union(*(may_be_best(each, self.settings.screening) for each in found.values()))
        gone = ", ".join(f"{scale:g}" for scale in self.settings.scales if scale not in kept)
        if gone:
            self.progress.say(f"images: guidance {gone}: given up after the first image of each validation prompt")
        return [scale for scale in self.settings.scales if scale in kept]

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
        rows, size = list(sheet.rows(self.seed, sheet.there)), self.settings.batch
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

    def _scored(self, models: Sequence[str], scales: Sequence[float]) -> dict[str, Scored]:
        """Groups and scores of the images that each model tried at each scale; more is better."""
        metric = self.choose
        assert metric
        sheets = {
            (model, scale): read_sheet(self.folder.tried_at(model, scale)) for model in models for scale in scales
        }
        scores = iter(self.judging.scores(metric, [picture for sheet in sheets.values() for picture in sheet]))
        sign, found = 1 if metric.higher_is_better else -1, {model: Scored() for model in models}
        for (model, scale), sheet in sheets.items():
            groups = [metric.group(picture.row) for picture in sheet]
            found[model][scale] = groups, [sign * next(scores).value for _ in sheet]
        return found

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


def _is_there(sheet: Sheet, rows: Sequence[Row]) -> bool:
    return all(_is_whole(sheet.folder / row["file_name"]) for row in rows)


def _is_whole(path: Path) -> bool:
    """Whether an image was drawn, and can be read."""
    try:
        return path.is_file() and read_image(path) is not None
    except Unreadable:
        return False
