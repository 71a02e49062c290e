"""aligned/ -> samples/: base and aligned on held-out prompts, from the same seeds, to look at and to vote on.

It needs no detector and no evaluation. One model is in memory, and what was drawn before an interruption is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ddspo import randomness
from ddspo.backbones.base import Backbone
from ddspo.files import remove, write_rows
from ddspo.images import write_image
from ddspo.progress import Progress
from ddspo.rows import Row, read_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.training.validation import Validation, spread


@dataclass(frozen=True)
class FinalPictures:
    """The pictures of a finished training; `draw()` makes those that are missing.

    Attributes:
        load: Gives the base; called if anything is to be drawn.
        align: Makes it the aligned model.
        items: Rows with a prompt, of which some are drawn.
    """

    folder: RunFolder
    settings: Validation
    load: Callable[[], Backbone]
    align: Callable[[Backbone], object]
    items: Sequence[Row]
    seed: int

    def draw(self, progress: Progress) -> None:
        """Write `samples/`; what is there of other prompts, seeds or settings is thrown away."""
        rows, index = self._rows(), self.folder.samples / "samples.jsonl"
        if index.exists() and read_rows(index) != rows:
            remove(self.folder.samples)
        write_rows(index, rows)
        left = {model: [row for row in rows if not (self.folder.path / row[model]).exists()] for model in MODELS}
        count = sum(map(len, left.values()))
        if count:
            backbone = self.load()
            with progress.task("train", len(MODELS) * len(rows), done=len(MODELS) * len(rows) - count) as advance:
                for model in MODELS:
                    if model == "aligned":
                        self.align(backbone)
                    for first in range(0, len(left[model]), self.settings.batch):
                        part = left[model][first : first + self.settings.batch]
                        self._draw(backbone, model, part)
                        advance(len(part), f"pictures of {model}")

    def _rows(self) -> list[Row]:
        """What is to be drawn, how, and where it goes."""
        rows = []
        for number, item in enumerate(spread(self.items, self.settings.final)):
            row = {
                "item": number,
                "prompt": item["prompt"],
                "seed": randomness.stable_seed(self.seed, item["id"], "final"),
            }
            row |= {"steps": self.settings.steps, "guidance": self.settings.guidance}
            rows.append(row | {model: f"{self.folder.samples.name}/{model}/{number:05d}.png" for model in MODELS})
        return rows

    def _draw(self, backbone: Backbone, model: str, rows: Sequence[Row]) -> None:
        prompts, seeds = [row["prompt"] for row in rows], [row["seed"] for row in rows]
        images = backbone.decode(backbone.generate(prompts, seeds, *self.settings.how(backbone)))
        for row, image in zip(rows, images, strict=True):
            write_image(self.folder.path / row[model], image)
