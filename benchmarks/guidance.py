"""What guidance can get out of the reference of an embedded world, without any training.

`python benchmarks/guidance.py recipes/scenes-flow.yaml` scores the validation prompts under

    e = e(empty) + s(t) (e(prompt) - e(empty)) + k (e(prompt) - e(contrast))

for several scales and schedules s(t) (early, middle, late times) and for two contrasts: the degraded prompt of the
recipe (the direction along which TF-CPP moves the prediction), and a wrong prompt that exchanges what the two objects
of a prompt are or do. If no such sampler beats plain guidance, no training along these directions can be expected to.
`clean` is the share of images that are read with confidence.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ddspo import components, recipe
from ddspo.backbones.base import Backbone
from ddspo.judging.asking import asking
from ddspo.maths.statistics import by_tag, overall
from ddspo.metrics.base import Metric
from ddspo.randomness import stable_seed
from ddspo.recipe import Recipe
from ddspo.rows import Row
from ddspo.workflow import Workflow

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
BATCH = 58


def main() -> None:
    """Print one JSON row for every sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--images", type=int, default=3, help="images a prompt")
    parser.add_argument("--scales", nargs="+", type=float, default=[3.0], help="constant guidance scales")
    parser.add_argument("--weights", nargs="*", type=float, default=[1.0, 3.0], help="weights k of the contrasts")
    parser.add_argument("--schedules", action="store_true", help="also scales that depend on time")
    options = parser.parse_args()
    given = recipe.load(options.recipe, options.overrides)
    world = World(given)
    items = world.items * options.images
    two = [row for row in items if row["tag"] in ("position", "color_attr")]
    for scale in options.scales:
        for weight in (0.0, *options.weights):
            world.show({"scale": scale, "away from degraded": weight}, items, world.degraded, constant(scale), weight)
        for weight in options.weights:
            world.show({"scale": scale, "away from exchanged": weight}, two, exchanged, constant(scale), weight)
    for early, middle, late in [(6, 3, 3), (3, 6, 3), (3, 3, 6), (6, 6, 1), (1, 6, 6)] if options.schedules else ():
        schedule = by_time(early, middle, late)
        world.show({"schedule": (early, middle, late)}, items, world.degraded, schedule, 0.0)


def constant(scale: float) -> Callable[[float], float]:
    """The same scale at every time."""
    return lambda t: scale


def by_time(early: float, middle: float, late: float) -> Callable[[float], float]:
    """Other scales above t = 750 and up to t = 400."""
    return lambda t: early if t > 750 else middle if t > 400 else late


def exchanged(row: Row, index: int) -> str:
    """The same words with the relation turned round, or the two colours exchanged."""
    if row["tag"] == "position":
        relation = row["include"][1]["position"][0]
        return row["prompt"].replace(relation, OPPOSITE[relation])
    one, two = (entry["color"] for entry in row["include"])
    return row["prompt"].replace(one, "#").replace(two, one).replace("#", two)


class World:
    """The reference, the validation prompts and the judge of a recipe."""

    def __init__(self, given: Recipe) -> None:
        assert given.evaluate is not None
        self.given, self.evaluate = given, given.evaluate
        self.backbone: Backbone = components.backbone_of(given.model).load(given.model)
        self.items = Workflow.start(given).found.items["validation"]

    def degraded(self, row: Row, index: int) -> str:
        """One prompt as the recipe degrades it."""
        ((variant, *_),) = self.given.degradation([row["prompt"]], [index])
        return variant.text

    def show(
        self,
        name: Row,
        items: Sequence[Row],
        contrast: Callable[[Row, int], str],
        scale: Callable[[float], float],
        weight: float,
    ) -> None:
        """Sample, judge, print."""
        images = []
        for first in range(0, len(items), BATCH):
            rows = range(first, min(first + BATCH, len(items)))
            texts = [items[row]["prompt"] for row in rows], [contrast(items[row], row) for row in rows]
            seeds = [stable_seed(row, "guidance") for row in rows]
            images += self.backbone.decode(self._sample(*texts, seeds, scale, weight))
        tags = [row["tag"] for row in items]
        values, clean = (self._judged(name, images, items) for name in ("geneval", "confident"))
        tagged = {tag: round(value, 3) for tag, value in by_tag(tags, values).items()}
        cleaned = {tag: round(value, 3) for tag, value in by_tag(tags, clean).items()}
        print(json.dumps(name | {"score": round(overall(tags, values), 3)} | tagged | {"clean": cleaned}), flush=True)

    def _judged(self, name: str, images: Sequence[np.ndarray], items: Sequence[Row]) -> list[float]:
        """What a metric of the recipe says."""
        (metric,) = (each for each in self.evaluate.metrics if each.name == name and isinstance(each, Metric))
        with asking(metric, self.backbone.device) as judge:
            return [score.value for score in judge(images, items)]

    @torch.no_grad()
    def _sample(
        self,
        prompts: list[str],
        contrasts: list[str],
        seeds: list[int],
        scale: Callable[[float], float],
        weight: float,
    ) -> torch.Tensor:
        """The pipeline's own sampler with a scale that depends on time, and with a third branch if it has a weight."""
        backbone = self.backbone
        branches = [prompts, [""] * len(prompts), *([contrasts] if weight else [])]
        condition = backbone.encode([text for branch in branches for text in branch])
        x, scheduler = backbone.initial_noise(seeds), backbone.pipeline.scheduler
        scheduler.set_timesteps(self.evaluate.steps)
        for t in scheduler.timesteps:
            copies = torch.cat([x] * len(branches))
            full, empty, *contrast = backbone.predict(
                backbone.denoiser, copies, t.repeat(len(copies)), condition
            ).chunk(len(branches))
            guided = empty + scale(float(t)) * (full - empty)
            for away in contrast:
                guided = guided + weight * (full - away)
            x = scheduler.step(guided, t, x).prev_sample
        return x


if __name__ == "__main__":
    main()
