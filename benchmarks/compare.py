"""Tunes DDSPO (TF-CPP) and Diffusion-DPO on the same pairs over the same grid, on validation prompts only.

`python benchmarks/compare.py --out runs/compare` prints one JSON row for every method, beta, learning rate and number
of updates: the validation score at each guidance scale. `--part 0/2` and `--part 1/2` share the work between two
processes. Finished rows are kept when it is run again.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file

from ddspo import components, recipe
from ddspo.adaptations.base import Adaptation
from ddspo.backbones.base import Backbone
from ddspo.objectives.base import Objective
from ddspo.policy_pairs.base import PolicyPair
from ddspo.progress import Progress
from ddspo.recipe import Recipe
from ddspo.run_folder import RunFolder, write_json
from ddspo.stages.evaluate import Evaluate, best
from ddspo.stages.sample import read_pairs
from ddspo.stages.train import Method, train
from ddspo.workflow import Workflow

METHODS = ("training_free", "forward_noise")


def main() -> None:
    """Make the pairs, then go through this process's part of the grid."""
    options = _options()
    flow = Workflow.start(recipe.load(Path("recipes/scenes.yaml"), [f"out={options.out}", "name=pairs", *options.set]))
    flow.progress = Progress(speaks=False)
    flow.run(("degrade", "sample"))
    part, parts = map(int, options.part.split("/"))
    grid = list(itertools.product(options.methods, options.beta, options.lr))[part::parts]
    if part == 0:
        for row in _base(flow):
            print(json.dumps(row), flush=True)
    for method, beta, lr in grid:
        for row in _arm(flow, method, beta, lr, sorted(options.steps)):
            print(json.dumps(row), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/compare")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--beta", nargs="+", type=float, default=[500, 5000])
    parser.add_argument("--lr", nargs="+", type=float, default=[3e-5, 3e-4])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 60])
    parser.add_argument("--set", nargs="*", default=[], help="recipe overrides")
    return parser.parse_args()


def _base(flow: Workflow) -> Iterator[dict]:
    curve = _curve(flow, RunFolder(Path(flow.recipe.out) / "base"), _backbone(flow.recipe))
    yield {"method": "base", "curve": curve, "best": best(curve)}


def _arm(flow: Workflow, method: str, beta: float, lr: float, steps: Sequence[int]) -> Iterator[dict]:
    """Train once to the most updates, and validate the checkpoints on the way."""
    given = flow.recipe
    name = f"{method}-b{beta:g}-lr{lr:g}"
    run = RunFolder(Path(given.out) / name)
    run.path.mkdir(parents=True, exist_ok=True)
    settings = components.construct(
        type(given.train),
        components.plain(given.train) | {"lr": lr, "steps": steps[-1], "checkpoint_every": 10, "keep": 99},
        name,
    )
    arm = Method(
        components.construct(PolicyPair, method, name),
        components.construct(Objective, {"logistic": {"beta": beta}}, name),
        given.adaptation,
    )
    if not run.aligned.exists():
        pairs = read_pairs(flow.folder)
        train(run, _backbone(given), pairs, arm, settings, given.seed, Accelerator(), Progress(speaks=False))
    log = [json.loads(line) for line in run.log.read_text().splitlines()]
    for step in steps:
        began = time.monotonic()
        backbone = _at(given, arm.adaptation, run.checkpoints / f"{step:07d}")
        curve = _curve(flow, RunFolder(run.path / f"at-{step}"), backbone)
        health = {key: round(log[step - 1][key], 5) for key in ("accuracy", "lose_displacement", "gap", "cosine")}
        yield {
            "method": method, "beta": beta, "lr": lr, "steps": step, "curve": curve, "best": best(curve),
            "score": max(curve.values()), "health": health, "seconds": round(time.monotonic() - began),
        }  # fmt: skip


def _at(given: Recipe, adaptation: Adaptation, checkpoint: Path) -> Backbone:
    backbone = _backbone(given)
    adaptation.restore(adaptation.attach(backbone, 0).policy, load_file(checkpoint / "weights.safetensors"))
    return backbone


def _backbone(given: Recipe) -> Backbone:
    return components.backbone_of(given.model).load(given.model)


def _curve(flow: Workflow, run: RunFolder, backbone: Backbone) -> dict[float, float]:
    result = run.path / "curve.json"
    if not result.exists():
        evaluate = Evaluate(
            run, {"aligned": backbone}, flow.items, flow.recipe.evaluate, "geneval", flow.recipe.seed,
            flow.accelerator, Progress(speaks=False),
        )  # fmt: skip
        write_json(result, {f"{scale:g}": round(score, 4) for scale, score in evaluate.validate()["aligned"].items()})
    return {float(scale): score for scale, score in json.loads(result.read_text()).items()}


if __name__ == "__main__":
    main()
