"""What guidance can get out of the reference of the embedded world, without any training.

`python benchmarks/guidance.py` scores the validation prompts under

    e = e(empty) + s(t) (e(prompt) - e(empty)) + k (e(prompt) - e(contrast))

for several schedules s(t) (early, middle, late times) and for two contrasts: the degraded prompt (the direction along
which TF-CPP moves the prediction), and a wrong prompt that exchanges what the two objects of a prompt are or do. If no
such sampler beats plain guidance, no training along these directions can be expected to.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import torch

from ddspo.backbones.base import Model, local
from ddspo.backbones.sd import SD
from ddspo.degradations.remove_words import RemoveWords
from ddspo.detectors.scenes import SceneDetector
from ddspo.metrics.geneval import GenEval, by_tag, overall
from ddspo.run_folder import Row, read_rows

SCHEDULES = [(3, 3, 3), (6, 3, 3), (3, 6, 3), (3, 3, 6), (6, 6, 1), (1, 6, 6)]
WEIGHTS = [1.0, 3.0]
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
STEPS, BATCH = 15, 58


def main() -> None:
    """Print one JSON row for every sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3, help="images a prompt")
    images = parser.parse_args().images
    path = local("package://ddspo.scenes/data/validation.jsonl")
    assert path is not None
    items = read_rows(path) * images
    for schedule in SCHEDULES:
        show({"schedule": schedule}, items, items, schedule, 0.0)
    for weight in WEIGHTS:
        show(
            {"degraded": weight},
            items,
            [row | {"prompt": degraded(row, n)} for n, row in enumerate(items)],
            (3,) * 3,
            weight,
        )
    two = [row for row in items if row["tag"] in ("position", "color_attr")]
    for weight in (0.0, *WEIGHTS, 10.0):
        show({"exchanged": weight}, two, [row | {"prompt": exchanged(row)} for row in two], (3,) * 3, weight)


def degraded(row: Row, seed: int) -> str:
    """One prompt with words removed, as in the recipe."""
    ((variant, *_),) = RemoveWords()([row["prompt"]], [seed])
    return variant


def exchanged(row: Row) -> str:
    """The same words with the relation turned round, or the two colours exchanged."""
    if row["tag"] == "position":
        relation = row["include"][1]["position"][0]
        return row["prompt"].replace(relation, OPPOSITE[relation])
    one, two = (entry["color"] for entry in row["include"])
    return row["prompt"].replace(one, "#").replace(two, one).replace("#", two)


def show(name: Row, items: Sequence[Row], contrasts: Sequence[Row], schedule: Sequence[float], weight: float) -> None:
    """Sample, judge, print."""
    early, middle, late = schedule
    backbone, metric = SD.load(Model("package://ddspo.scenes/model")), GenEval(SceneDetector())
    images = []
    for first in range(0, len(items), BATCH):
        rows = range(first, min(first + BATCH, len(items)))
        texts = [[part[row]["prompt"] for row in rows] for part in (items, contrasts)]
        latents = sample(
            backbone, *texts, list(rows), lambda t: early if t > 750 else middle if t > 400 else late, weight
        )
        images += backbone.decode(latents)
    values, tags = [score.value for score in metric(images, items)], [row["tag"] for row in items]
    tagged = {tag: round(value, 3) for tag, value in by_tag(tags, values).items()}
    print(json.dumps(name | {"score": round(overall(tags, values), 3)} | tagged), flush=True)


@torch.no_grad()
def sample(
    backbone: SD,
    prompts: list[str],
    contrasts: list[str],
    seeds: list[int],
    scale: Callable[[int], float],
    weight: float,
) -> torch.Tensor:
    """The pipeline's own sampler with a third branch, and a scale that depends on time."""
    texts = [*prompts, *[""] * len(prompts), *contrasts]
    condition, x = backbone.encode(texts), backbone.initial_noise(seeds)
    scheduler = backbone.pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        e = backbone.predict(backbone.denoiser, torch.cat([x] * 3), t.repeat(len(texts)), condition)
        full, empty, contrast = e.chunk(3)
        guided = empty + scale(int(t)) * (full - empty) + weight * (full - contrast)
        x = scheduler.step(guided, t, x).prev_sample
    return x


if __name__ == "__main__":
    main()
