"""What a model is asked before its recipe is written: how far its predictions move when words are missing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddspo import randomness
from ddspo.backbones.base import Backbone
from ddspo.maths.reward import mean_square
from ddspo.recipe import Recipe
from ddspo.rows import Row

PROMPTS = 24
"""So many are looked at."""
TIMES = 4
"""So many times of each."""


@torch.no_grad()
def gap_of(backbone: Backbone, rows: Sequence[Row], given: Recipe) -> float:
    """|g|^2 = mean of (e(x_t, c) - e(x_t, c-))^2 over dimensions, times, and samples of degraded prompts.

    It is the `gap` that the log of a training run begins with, on a few prompts.

    Args:
        backbone: The model.
        rows: Rows of `prompt`, `degraded` (one text) and `seed`.
        given: How these are sampled, and times are drawn.
    """
    how, size = given.sample.how(backbone), given.sample.batch
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return float(torch.cat([_gaps(backbone, part, given, how) for part in parts]).mean())


def _gaps(backbone: Backbone, rows: Sequence[Row], given: Recipe, how: tuple[int, float]) -> Tensor:
    """Of some prompts, at all times: [len(rows) * TIMES]."""
    texts, poorer, seeds = ([row[key] for row in rows] for key in ("prompt", "degraded", "seed"))
    x0, path = backbone.generate(poorer, seeds, *how), backbone.path
    condition = backbone.encode([*texts, *poorer])
    found = []
    for number, t in enumerate(path.times(given.draw.timesteps((torch.arange(TIMES) + 0.5) / TIMES))):
        noise = randomness.normal([randomness.stable_seed(seed, number) for seed in seeds], x0.shape[1:])
        times = t.repeat(2 * len(rows)).to(x0.device)
        x_t = path.noise(x0, noise.to(x0.device), times[: len(rows)])
        one, other = backbone.predict(backbone.denoiser, torch.cat([x_t, x_t]), times, condition).float().chunk(2)
        found.append(mean_square(one - other).cpu())
    return torch.cat(found)
