"""The method in a plane where all scores are exact: `python examples/plane.py [--quick] [OUT.png]`.

Aligns the reference of plane_world.py by each method, from pairs that it sampled itself: the winner under the prompt,
the loser under the prompt without one of its words. Objectives, policy pairs and noise are the library's own.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import plane_world as world
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddspo.maths.pair import Pair
from ddspo.objectives.base import Objective, branches
from ddspo.objectives.logistic import Logistic
from ddspo.objectives.sft import SFT
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import PolicyPair
from ddspo.policy_pairs.data_driven import DataDriven
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.training_free import TrainingFree


@dataclass(frozen=True)
class Method:
    """How to align: policy pair, objective, and what it is given."""

    policy_pair: PolicyPair
    objective: Objective
    lr: float = 1e-3
    steps: int = 100
    batch: int = 64
    pairs: int = 8192
    swapped: float = 0.0


TF = Method(TrainingFree(), Logistic(3000))
DD = Method(DataDriven(), Logistic(3000))
DPO = Method(ForwardNoise(), Logistic(30), lr=3e-4, steps=400)
METHODS = {
    "TF-CPP": TF,
    "DD-CPP": DD,
    "Diffusion-DPO": DPO,
    "SFT": Method(ForwardNoise(), SFT()),
    "TF-CPP, half swapped": replace(TF, swapped=0.5),
    "DD-CPP, half swapped": replace(DD, swapped=0.5),
    "Diffusion-DPO, half swapped": replace(DPO, swapped=0.5),
    "TF-CPP, 36 pairs": Method(TrainingFree(), Logistic(1e4), steps=400, pairs=36),
    "Diffusion-DPO, 36 pairs": Method(ForwardNoise(), Logistic(100), steps=200, pairs=36),
}
CLAIM = ("TF-CPP", "Diffusion-DPO", "TF-CPP, half swapped", "Diffusion-DPO, half swapped")
SHOWN = 2
"""The prompt of the picture: left column, top row."""


@dataclass(frozen=True)
class Pairs:
    """Prompts, degraded prompts and samples: all that a method is given, [N, 2] each."""

    prompt: Tensor
    degraded: Tensor
    x0: Pair[Tensor]

    @classmethod
    def drawn(cls, method: Method, generator: torch.Generator) -> "Pairs":
        """From the reference, with and without the whole prompt; of some the two are swapped."""
        prompt = world.PROMPTS[torch.randint(9, (method.pairs,), generator=generator)]
        degraded = world.degraded(prompt, generator)
        win, lose = (world.draw(world.believed(words), generator) for words in (prompt, degraded))
        wrong = torch.arange(method.pairs)[:, None] < method.swapped * method.pairs
        return cls(prompt, degraded, Pair(torch.where(wrong, lose, win), torch.where(wrong, win, lose)))

    def view(self, rows: Tensor, generator: torch.Generator) -> View:
        """Some of them, noised: one time and one noise for both sides of a pair."""
        x0 = self.x0.map(lambda x: x[rows].float())
        noise = torch.randn(x0.win.shape, generator=generator)
        t = world.PATH.times(torch.rand(len(rows), generator=generator))
        x_t = x0.map(lambda x: world.PATH.noise(x, noise, t))
        prompts = {"prompt": self.prompt[rows]}, {"prompt": self.degraded[rows]}
        return View(x0, Pair(noise, noise), t, x_t, *prompts, world.PATH)


def align(method: Method, seed: int) -> world.Student:
    """Train a student that starts as the reference."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pairs, student = Pairs.drawn(method, generator), world.Student()
    optimizer = torch.optim.Adam(student.parameters(), lr=method.lr)
    for _ in range(method.steps):
        rows = torch.randint(method.pairs, (method.batch,), generator=generator)
        loss = step(student, method, pairs.view(rows, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    return student


def step(student: world.Student, method: Method, view: View) -> Tensor:
    """The loss of one noised batch: who is asked the policy pair says, and what becomes of it the objective."""
    needs = method.objective.needs
    frozen = world.Frozen(method.swapped)
    supervision = method.policy_pair.supervise(frozen, view, reference=needs.reference, lose=needs.lose)
    policy = view.x_t.map(lambda x_t: student(x_t, view.t, view.condition))
    return method.objective(branches(policy, supervision)).mean()


def samples_of(student: world.Student | world.Frozen, count: int) -> Tensor:
    """As many for each prompt, [9 count, 2]."""
    return world.sample(student, world.PROMPTS.repeat_interleave(count, 0), world.noises(count))


def table(seen: Mapping[str, Tensor]) -> str:
    """Mean and deviation over seeds of accuracy and energy distance, from samples [seeds, 9 n, 2]."""
    lines = ["| policy | accuracy | energy distance |", "|---|---|---|"]
    for name, samples in seen.items():
        found = torch.tensor([world.judge(each) for each in samples])
        cells = [f"{x.mean():.3f} ± {x.std():.3f}" if len(x) > 1 else f"{x.item():.3f}" for x in found.T]
        lines.append(f"| {' | '.join((name, *cells))} |")
    return "\n".join(lines)


def picture(seen: Mapping[str, Tensor]) -> Figure:
    """What each policy draws for one prompt with the first seed; orange is what it should not draw."""
    rows = -(-len(seen) // 4)
    figure = Figure(figsize=(8, 2.1 * rows), layout="constrained")
    for (name, samples), axes in zip(seen.items(), figure.subplots(rows, 4, squeeze=False).flat, strict=False):
        shown = samples[0].chunk(9)[SHOWN]
        right = world.accurate(shown, world.PROMPTS[SHOWN].expand(len(shown), 2))
        axes.scatter(*world.MEANS.flatten(0, 1).T, s=1, color="#c8ccd4")
        axes.scatter(*shown[right].T, s=3, color="#2f6fde", linewidths=0)
        axes.scatter(*shown[~right].T, s=3, color="#d9822b", linewidths=0)
        axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{name}\naccuracy {world.judge(samples[0])[0]:.2f}", fontsize=8)
    for axes in figure.axes[len(seen) :]:
        axes.axis("off")
    return figure


def main() -> None:
    """Align by every method, and tell and show what came of it."""
    parser = argparse.ArgumentParser(description="DDSPO and its rivals in a plane where all scores are exact")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/plane/plane.png"), metavar="OUT.png")
    parser.add_argument("--quick", action="store_true", help="one seed, and the four runs that carry the claim")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    count, seeds = (128, 1) if asked.quick else (256, 3)
    truth, losers = (
        cells(world.PROMPTS.repeat_interleave(count, 0)) for cells in (world.meant, world.believed_degraded)
    )
    generator = torch.Generator().manual_seed(1)
    seen = {
        "truth": world.draw(truth, generator)[None],
        "reference, the winner": samples_of(world.Frozen(), count)[None],
        "degraded, the loser": world.draw(losers, generator)[None],
    }
    for name, method in METHODS.items():
        if not asked.quick or name in CLAIM:
            seen[name] = torch.stack([samples_of(align(method, seed), count) for seed in range(seeds)])
            print(table({name: seen[name]}).splitlines()[-1], flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    picture(seen).savefig(asked.out, dpi=100)
    print(table(seen), asked.out, sep="\n\n")


if __name__ == "__main__":
    main()
