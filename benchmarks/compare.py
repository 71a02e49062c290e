"""Tunes methods on the same pairs, on validation prompts only.

    A="objective.logistic.beta=500 train.lr=1e-4"
    python benchmarks/compare.py recipes/scenes.yaml --steps 30 100 --arm "$A" "$A policy_pair=forward_noise"

prints one JSON row for the base and one for every arm (a recipe with some overrides) and number of updates: the
validation score at each guidance scale. `--part 0/2` and `--part 1/2` share the arms between two processes. Finished
rows are kept when it is run again.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file

from ddspo import components, recipe
from ddspo.backbones.base import Backbone
from ddspo.files import write_json
from ddspo.progress import Progress
from ddspo.recipe import Recipe
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.evaluate import Evaluate, best
from ddspo.workflow import Workflow

HEALTH = ("accuracy", "win_displacement", "lose_displacement", "gap", "cosine")


def main() -> None:
    """Make the pairs, then go through this process's part of the arms."""
    options = _options()
    fixed = [f"out={options.out}", "validation.every=0", "trackers=[]", *options.set]
    pairs = Workflow.start(recipe.load(options.recipe, [*fixed, "name=pairs"]))
    pairs.run(("degrade", "sample"))
    part, parts = map(int, options.part.split("/"))
    if part == 0:
        curve = _curve(pairs, RunFolder(Path(options.out) / "base"), _backbone(pairs.recipe))
        print(json.dumps({"arm": "base", "curve": curve, "best": best(curve)}), flush=True)
    for arm in options.arm[part::parts]:
        for row in _arm(pairs.folder, options.recipe, fixed, arm, sorted(options.steps)):
            print(json.dumps({"arm": arm} | row), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--arm", nargs="+", required=True, help="overrides of the recipe, separated by spaces")
    parser.add_argument("--steps", nargs="+", type=int, default=[30, 100], help="updates after which it is validated")
    parser.add_argument("--out", default="runs/compare")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of every arm")
    return parser.parse_args()


def _arm(pairs: RunFolder, path: Path, fixed: Sequence[str], arm: str, steps: Sequence[int]) -> Iterator[dict]:
    """Train once to the most updates, and validate the checkpoints on the way."""
    name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in arm)
    every = math.gcd(*steps)
    mechanics = [f"train.steps={steps[-1]}", f"train.checkpoint_every={every}", f"train.keep={steps[-1] // every}"]
    given = recipe.load(path, [*fixed, *arm.split(), *mechanics, f"name={name[-99:]}"])
    _share(pairs, RunFolder(Path(given.out) / given.name))
    flow = Workflow.start(given)
    flow.run(tuple(stage for stage in flow.stages if stage in ("pretrain", "train")))
    log = read_rows(flow.folder.log)
    for step in steps:
        began = time.monotonic()
        curve = _curve(flow, RunFolder(flow.folder.path / f"at-{step}"), _at(flow, step))
        health = {key: round(log[step - 1][key], 5) for key in HEALTH}
        row = {"steps": step, "curve": curve, "best": best(curve), "score": max(curve.values()), "health": health}
        yield row | {"seconds": round(time.monotonic() - began)}


def _share(pairs: RunFolder, run: RunFolder) -> None:
    """The arm begins where the pairs are."""
    if not run.manifest.exists():
        run.path.mkdir(parents=True, exist_ok=True)
        shutil.copy(pairs.prompts, run.prompts)
        shutil.copytree(pairs.pairs, run.pairs, dirs_exist_ok=True)
        shutil.copytree(pairs.images, run.images, dirs_exist_ok=True)
        write_json(run.manifest, pairs.stages())


def _at(flow: Workflow, step: int) -> Backbone:
    backbone, adaptation = _backbone(flow.recipe), flow.recipe.adaptation
    weights = load_file(flow.folder.checkpoints / f"{step:07d}" / "weights.safetensors")
    own = {name: value for name, value in weights.items() if "/" not in name}
    adaptation.restore(adaptation.attach(backbone, 0).policy, own)
    return backbone


def _backbone(given: Recipe) -> Backbone:
    return components.backbone_of(given.model).load(given.model)


def _curve(flow: Workflow, run: RunFolder, backbone: Backbone) -> dict[float, float]:
    result = run.path / "curve.json"
    if not result.exists():
        assert flow.recipe.evaluate is not None
        evaluate = Evaluate(
            run, {"aligned": backbone}, flow.items, flow.recipe.evaluate, "geneval", flow.recipe.seed,
            flow.accelerator, Progress(speaks=False),
        )  # fmt: skip
        write_json(result, {f"{scale:g}": round(score, 4) for scale, score in evaluate.validate()["aligned"].items()})
    return {float(scale): score for scale, score in json.loads(result.read_text()).items()}


if __name__ == "__main__":
    main()
