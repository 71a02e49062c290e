"""A plane in which everything is known: densities, noised scores and policies in closed form; used by plane.py.

A prompt names a column and a row of a board of 3 x 3 cells. What it truly means is a ring of Gaussians in that cell.
The reference learned from careless captions: it puts .8 of its belief into the column that is named and .1 into each
other, and likewise for rows, so that .64 of its samples are in the right cell.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ddspo.conditions import Condition
from ddspo.maths.paths import DDPM, NoisePath

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""A policy: the noise that it sees in x_t [B, 2] at times [B] under the condition, [B, 2]."""
DROPPED = 3
"""In place of a column or a row: a word that was taken out of the prompt."""
BELIEF = torch.full((4, 3), 0.1, dtype=torch.float64) + 0.7 * torch.eye(4, 3, dtype=torch.float64)
BELIEF[DROPPED] = 1 / 3
DEVIATION = 0.07
ANGLES = torch.arange(8, dtype=torch.float64) * math.tau / 8
RING = 0.25 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
CENTRES = torch.cartesian_prod(torch.arange(-1.0, 2.0).double(), torch.arange(-1.0, 2.0).double())
MEANS = CENTRES[:, None] + RING
"""Of the Gaussians, [9 cells, 8, 2]."""
PROMPTS = torch.cartesian_prod(torch.arange(3), torch.arange(3))
"""Every prompt, [9, 2]; prompt i means cell i."""
PATH = DDPM(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))


def believed(prompt: Tensor) -> Tensor:
    """How likely the reference thinks each cell is under prompts [B, 2]: [B, 9]."""
    column, row = BELIEF[prompt[:, 0]], BELIEF[prompt[:, 1]]
    return (column[:, :, None] * row[:, None, :]).flatten(1)


def meant(prompt: Tensor) -> Tensor:
    """The cell that is meant, [B, 9]."""
    return torch.eye(9, dtype=torch.float64)[3 * prompt[:, 0] + prompt[:, 1]]


def degraded(prompt: Tensor, generator: torch.Generator) -> Tensor:
    """One of the two words dropped."""
    which = torch.rand(len(prompt), generator=generator) < 0.5
    return torch.where(torch.stack([which, ~which], 1), DROPPED, prompt)


def believed_degraded(prompt: Tensor) -> Tensor:
    """What the reference believes under a degraded prompt, the mean over both: the law of losing samples, [B, 9]."""
    drops = [torch.tensor([True, False]), torch.tensor([False, True])]
    return sum(believed(torch.where(drop, DROPPED, prompt)) for drop in drops) / 2


def draw(cells: Tensor, generator: torch.Generator) -> Tensor:
    """One sample from each mixture with these weights of the cells, [B, 9] to [B, 2]."""
    cell = cells.multinomial(1, generator=generator)[:, 0]
    peak = torch.randint(len(RING), cell.shape, generator=generator)
    noise = torch.randn(len(cells), 2, generator=generator, dtype=torch.float64)
    return MEANS[cell, peak] + DEVIATION * noise


def log_density(x_t: Tensor, cells: Tensor, t: Tensor | None = None, path: NoisePath = PATH) -> Tensor:
    """log p_t(x_t) of mixtures with these weights of the cells, noised until t (None: as they are), [B].

    Noise moves each Gaussian of mean m and variance s^2 to mean alpha m and variance alpha^2 s^2 + sigma^2.
    """
    return _parts(x_t, cells, t, path)[0].logsumexp(1)


def noise_within(x_t: Tensor, cells: Tensor, t: Tensor, path: NoisePath = PATH) -> Tensor:
    """E[eps | x_t] = -sigma_t grad log p_t(x_t), what a perfect network predicts, [B, 2]."""
    logs, away, variance = _parts(x_t, cells, t, path)
    sigma = path.coefficients(t)[1].to(x_t)
    return sigma[:, None] * (logs.softmax(1)[:, :, None] * away).sum(1) / variance[:, None]


def _parts(x_t: Tensor, cells: Tensor, t: Tensor | None, path: NoisePath) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of the weighed densities of all Gaussians, [B, 72]; x_t - their means, [B, 72, 2]; their variance."""
    alpha, sigma = path.coefficients(t) if t is not None else (torch.ones(1), torch.zeros(1))
    variance = (alpha.square() * DEVIATION**2 + sigma.square()).to(x_t)
    away = x_t[:, None] - alpha.to(x_t).view(-1, 1, 1) * MEANS.flatten(0, 1).to(x_t)
    weights = (cells / len(RING)).repeat_interleave(len(RING), 1).to(x_t).log()
    logs = weights - away.square().sum(2) / (2 * variance[:, None]) - (math.tau * variance[:, None]).log()
    return logs, away, variance


@dataclass(frozen=True)
class Frozen:
    """The policies that learn nothing, as a policy pair asks for them; `swapped` is the share of wrong labels.

    Winner and loser are what training on the preferred and on the dispreferred samples would end in.
    """

    swapped: float = 0.0

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, who: str = "reference") -> Tensor:
        """The perfect prediction under that policy, [B, 2]."""
        return noise_within(x_t, self.cells(condition["prompt"], who), t)

    def cells(self, prompt: Tensor, who: str) -> Tensor:
        """How likely each cell is under a policy, [B, 9]."""
        right, wrong = believed(prompt), believed_degraded(prompt) if who != "reference" else believed(prompt)
        share = {"reference": 0.0, "winner": self.swapped, "loser": 1 - self.swapped}[who]
        return (1 - share) * right + share * wrong


class Student(nn.Module):
    """The reference and a small network beside it that starts at zero: the policy that is trained."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [2 + 4 + 4 + 7, width, width, width]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        last = nn.Linear(width, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.beside = nn.Sequential(*hidden, last)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise in x_t [B, 2] at times [B] under prompts [B, 2]: [B, 2]."""
        prompt = condition["prompt"]
        words = nn.functional.one_hot(prompt, 4).flatten(1)
        angle = PATH.progress(t)[:, None] * math.pi * torch.tensor([0.5, 1, 2])
        seen = torch.cat([x_t, words, PATH.progress(t)[:, None], angle.sin(), angle.cos()], 1)
        return noise_within(x_t, believed(prompt), t) + self.beside(seen)


@torch.no_grad()
def sample(predict: Predict, prompt: Tensor, x: Tensor, steps: int = 40) -> Tensor:
    """DDIM from noise x [B, 2]: solve for x_0 with the noise that is predicted, and put less of it back."""
    times = torch.linspace(len(PATH.alphas_cumprod) - 1, 0, steps + 1).round().long()
    for now, then in pairwise(times.split(1)):
        eps = predict(x, now.repeat(len(x)), {"prompt": prompt})
        alpha, sigma = (part.to(x) for part in PATH.coefficients(now))
        x = (x - sigma * eps) / alpha
        if then > 0:
            x = PATH.noise(x, eps, then)
    return x


def noises(count: int) -> Tensor:
    """Noise to sample from, `count` for each prompt, [9 count, 2]: the same for all, and evenly spread."""
    even = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return torch.special.ndtri(even).float().repeat(len(PROMPTS), 1)


def accurate(samples: Tensor, prompt: Tensor) -> Tensor:
    """Which samples are of a density above that of the thinnest thousandth of what the prompts truly mean, [B]."""
    truth = draw(meant(PROMPTS[:1].repeat(10_000, 1)), torch.Generator().manual_seed(0))
    thin = log_density(truth, meant(PROMPTS[:1])).quantile(1e-3)
    return log_density(samples.double(), meant(prompt)) > thin


def judge(samples: Tensor) -> tuple[float, float]:
    """Share of accurate samples, and energy distance from the truth, of as many for each prompt, [9 n, 2].

    2 E|x - y| - E|x - x'| - E|y - y'| of samples x and truths y of a prompt, the mean over prompts; 0 for the truth.
    """
    asked, drawn = (PROMPTS.repeat_interleave(count, 0) for count in (len(samples) // 9, 1024))
    truth = draw(meant(drawn), torch.Generator().manual_seed(0))
    sides = zip(samples.double().chunk(9), truth.chunk(9), strict=True)
    energy = torch.stack([2 * torch.cdist(x, y).mean() - _apart(x) - _apart(y) for x, y in sides])
    return accurate(samples, asked).double().mean().item(), energy.mean().item()


def _apart(x: Tensor) -> Tensor:
    """Mean distance of two different samples."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
