"""Validation on the way: the same prompts and seeds every time, the base above and the policy below."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from annotated_types import Ge, Gt, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo import randomness
from ddspo.agreement import alone
from ddspo.backbones._residence import awake
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.images import write_image
from ddspo.judging.asking import asking
from ddspo.maths.statistics import overall
from ddspo.metrics.base import Metric
from ddspo.rows import Row
from ddspo.training.trackers import show

T = TypeVar("T")


@dataclass(frozen=True)
class Validation:
    """Pictures, and a score, of the policy while and when it was trained; nothing it learns depends on them."""

    every: Annotated[int, Ge(0), Doc("updates from one to the next; 0 for none")] = 0
    pictures: Annotated[int, Gt(0), Doc("prompts in the grid, spread over those that are held out")] = 6
    scored: Annotated[int, Ge(0), Doc("held-out prompts that a metric judges, one image each; 0 for no score")] = 0
    metric: Annotated[
        Metric | None, Doc("what judges them; null: the metric that chooses the guidance scale in evaluate")
    ] = None
    final: Annotated[
        int, Ge(0), Le(10_000), Doc("held-out prompts of which base and aligned draw a picture in the end; 0: none")
    ] = 16
    prompts: Annotated[
        str, Doc("what is held out where the recipe has no evaluate.validation: a list, as prompts.path")
    ] = "package://ddspo.prompts/held_out.txt"
    guidance: Annotated[
        Annotated[float, Ge(1), Le(100)] | None,
        Doc("classifier-free guidance scale, 1 for none; null: as usual for the model"),
    ] = None
    steps: Annotated[Annotated[int, Gt(0), Le(1000)] | None, Doc("sampler steps; null: as usual for the model")] = None
    batch: Annotated[int, Gt(0), Doc("images generated at once")] = 8
    save: Annotated[
        Literal["last", "best"], Doc("weights that become aligned/: of the last update, or of the best score")
    ] = "last"

    def how(self, backbone: Backbone) -> tuple[int, float]:
        """Steps and guidance for a model."""
        steps, guidance = backbone.usual
        return self.steps or steps, self.guidance or guidance

    def check(self, steps: int) -> None:
        """Refuse to save the best of none.

        Args:
            steps: Updates of the training run.

        Raises:
            InputError: No update would be scored.
        """
        if self.save == "best" and not (self.scored and 0 < self.every <= steps):
            raise InputError(
                f"validation.save best: nothing would be scored: set validation.scored, and validation.every to at "
                f"most train.steps {steps}"
            )

    def remarks(self, steps: int) -> list[str]:
        """What is not wrong, but should be known."""
        never = self.every > steps
        return [f"validation.every {self.every}: never reached in {steps} updates"] if never else []


@dataclass
class Validator:
    """Generates, shows and judges. Make it before the backbone becomes a policy: it keeps the base's images.

    Attributes:
        metric: What judges, if anything is to be scored; it is loaded for each look, and freed after it.
        folder: Where the grids go.
    """

    settings: Validation
    backbone: Backbone
    items: Sequence[Row]
    metric: Metric | None
    seed: int
    folder: Path
    accelerator: Accelerator
    base: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.items = spread(self.items, max(self.settings.pictures, self.settings.scored))
        alone(self._begin)

    def due(self, step: int) -> bool:
        """Whether update `step` is followed by a validation."""
        return step % self.settings.every == 0

    def __call__(self, step: int) -> dict[str, float]:
        """Write and show the grid after update `step`; returns the scores of base and policy, if any, everywhere."""
        scores = torch.zeros(2, device=self.accelerator.device, dtype=torch.float32)
        alone(lambda: self._look(step, scores))
        base, policy = self.accelerator.reduce(scores, "sum").tolist()
        return {"base_score": base, "score": policy} if self.settings.scored else {}

    def _begin(self) -> None:
        self.base = self._generate()
        shown = spread(self.items, self.settings.pictures)
        rows = [{"column": column, "id": item["id"], "prompt": item["prompt"]} for column, item in enumerate(shown)]
        write_rows(self.folder / "prompts.jsonl", rows)

    def _look(self, step: int, scores: Tensor) -> None:
        """Write the grid, and put the scores of base and policy where they are asked for."""
        images = self._generate()
        self._grid(step, images)
        if self.settings.scored:
            scores += torch.tensor(self._scores(images), device=scores.device)

    def _generate(self) -> list[np.ndarray]:
        images: list[np.ndarray] = []
        with undisturbed(self.backbone), self.accelerator.autocast():
            for first in range(0, len(self.items), self.settings.batch):
                part = self.items[first : first + self.settings.batch]
                seeds = [randomness.stable_seed(self.seed, item["id"], "validation") for item in part]
                prompts = [item["prompt"] for item in part]
                latents = self.backbone.generate(prompts, seeds, *self.settings.how(self.backbone))
                images += self.backbone.decode(latents)
        return images

    def _grid(self, step: int, images: Sequence[np.ndarray]) -> None:
        rows = [np.concatenate(spread(each, self.settings.pictures), axis=1) for each in (self.base, images)]
        grid = np.concatenate(rows)
        write_image(self.folder / f"{step:07d}.png", grid)
        show(self.accelerator, grid, step)

    def _scores(self, images: Sequence[np.ndarray]) -> list[float]:
        """Of base and policy."""
        assert self.metric is not None  # nothing is scored without one
        items, count = spread(self.items, self.settings.scored), self.settings.scored
        groups = [self.metric.group(item) for item in items]
        with asking(self.metric, self.accelerator.device) as judge:
            both = [judge(spread(each, count), items) for each in (self.base, images)]
        return [overall(groups, [score.value for score in scores]) for scores in both]


def spread(rows: Sequence[T], count: int) -> list[T]:
    """At most `count` rows, evenly spaced from the first to the last."""
    return [rows[place] for place in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]


@contextmanager
def undisturbed(backbone: Backbone) -> Iterator[None]:
    """Generate inside: mode, scheduler, random numbers and places of parts are as before afterwards; it is seeded."""
    network, pipeline = backbone.denoiser, backbone.pipeline
    training, scheduler = network.training, pipeline.scheduler
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with awake(backbone), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        network.eval()
        pipeline.scheduler = copy.deepcopy(scheduler)
        try:
            yield
        finally:
            pipeline.scheduler = scheduler
            network.train(training)
