"""Cost of a training step against its floor: `python benchmarks/step.py`.

A TF-CPP step needs 3 frozen and 2 policy forwards a pair and one backward through the latter. The floor is those
forwards and that backward on the bare UNet; the ratio is the library's own overhead. Both run in turn, and the median
of the ratios is reported.
"""

import statistics

import torch
from accelerate import Accelerator
from timing import seconds

from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.view import View
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step

PAIRS = 32
ROUNDS = 9


def main() -> None:
    """Time both and print the ratio."""
    Accelerator()
    backbone = SD.load(Model("package://ddspo.scenes/noise"))
    policies = Policies.of(backbone, LoRA(), 0)
    view = _view(backbone)
    condition = {name: torch.cat([rows] * 3) for name, rows in view.condition.items()}
    double = {name: torch.cat([rows] * 2) for name, rows in view.condition.items()}
    t = view.t

    def step() -> None:
        preference_step(policies, TrainingFree(), Logistic(), view).value.backward()

    def floor() -> None:
        policies.frozen(torch.cat([view.x_t.win, view.x_t.lose, view.x_t.lose]), t.repeat(3), condition)
        policies.policy(torch.cat(view.x_t), t.repeat(2), double).square().mean().backward()

    for function in (step, floor):
        function()
    pairs = [(seconds(step), seconds(floor)) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"step {statistics.median(a for a, _ in pairs) * 1e3:.0f} ms, floor ", end="")
    print(f"{statistics.median(b for _, b in pairs) * 1e3:.0f} ms, ratio {ratio:.3f} ({PAIRS} pairs, {ROUNDS} rounds)")


def _view(backbone: SD) -> View:
    x0 = Pair(torch.randn(PAIRS, *backbone.latent_shape), torch.randn(PAIRS, *backbone.latent_shape))
    noise, t = torch.randn_like(x0.win), torch.randint(0, 1000, (PAIRS,))
    path = backbone.path
    condition, degraded = backbone.encode(["a photo of a red circle"] * PAIRS), backbone.encode(["red"] * PAIRS)
    return View(x0, Pair(noise, noise), t, x0.map(lambda x: path.noise(x, noise, t)), condition, degraded, path)


if __name__ == "__main__":
    main()
