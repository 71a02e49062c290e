"""Tunes methods on the same pairs, on validation prompts only.

    A="objective.logistic.beta=500 train.lr=1e-4"
    python benchmarks/compare.py recipes/scenes.yaml --steps 30 100 --arm "$A" "$A policy_pair=forward_noise"

prints one JSON row for the base and one for every arm (a recipe with some overrides) and number of updates: at each
guidance scale the validation score, and the Frechet distance of these images to the recipe's references (larger for
fewer images: compare it with the base's). `--part 0/2` and `--part 1/2` share the arms between two processes. Finished
rows are kept when it is run again.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from ddspo import components, recipe
from ddspo.backbones.base import Backbone
from ddspo.files import write_json
from ddspo.judging.judging import Judging, References, Set
from ddspo.judging.pictures import Picture
from ddspo.judging.sheets import read_sheet
from ddspo.manifest import Manifest
from ddspo.maths.statistics import overall
from ddspo.metrics.base import Metric, SetMetric
from ddspo.recipe import Recipe
from ddspo.references import read_references
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.images import Images
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
        found = _validated(pairs, RunFolder(Path(options.out) / "base"), _backbone(pairs.recipe))
        print(json.dumps({"arm": "base"} | found), flush=True)
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


def _arm(pairs: RunFolder, path: Path, fixed: Sequence[str], arm: str, steps: Sequence[int]) -> Iterator[Row]:
    """Train once to the most updates, and validate the checkpoints on the way."""
    name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in arm)
    every = math.gcd(*steps)
    mechanics = [f"train.steps={steps[-1]}", f"train.checkpoint_every={every}", f"train.keep={steps[-1] // every}"]
    given = recipe.load(path, [*fixed, *arm.split(), *mechanics, f"name={name[-99:]}"])
    share(pairs, RunFolder(given.folder))
    flow = Workflow.start(given)
    flow.run(tuple(stage for stage in flow.recipe.stages if stage in ("pretrain", "train")))
    log = read_rows(flow.folder.log)
    for step in steps:
        began = time.monotonic()
        found = _validated(flow, RunFolder(flow.folder.path / f"at-{step}"), _at(flow, step))
        health = {key: round(log[step - 1][key], 5) for key in HEALTH}
        yield {"steps": step} | found | {"health": health, "seconds": round(time.monotonic() - began)}


def share(pairs: RunFolder, run: RunFolder) -> None:
    """The arm begins where the pairs are."""
    if not run.manifest.exists():
        run.path.mkdir(parents=True, exist_ok=True)
        for one, other in ((pairs.prompts, run.prompts), (pairs.undegraded, run.undegraded)):
            shutil.copy(one, other)
        shutil.copytree(pairs.pairs, run.pairs, dirs_exist_ok=True)
        shutil.copytree(pairs.images, run.images, dirs_exist_ok=True)
        shutil.copytree(pairs.digests, run.digests, dirs_exist_ok=True)
        write_json(run.manifest, Manifest(pairs).stages())


def _at(flow: Workflow, step: int) -> Backbone:
    backbone, adaptation = _backbone(flow.recipe), flow.recipe.adaptation
    weights = load_file(flow.folder.checkpoints / f"{step:07d}" / "weights.safetensors")
    own = {name: value for name, value in weights.items() if "/" not in name}
    adaptation.restore(adaptation.attach(backbone, 0).policy, own)
    return backbone


def _backbone(given: Recipe) -> Backbone:
    return components.backbone_of(given.model).load(given.model)


def _validated(flow: Workflow, run: RunFolder, backbone: Backbone) -> Row:
    """Score and figures of the sets by guidance scale, and the best scale; the seeds are those of the evaluation."""
    result = run.path / "validated.json"
    if not result.exists():
        found, settings = flow.found, flow.recipe.evaluate
        assert settings is not None
        metric = settings.chooser
        assert metric is not None, "give several evaluate.scales"
        place = settings.references
        references = References(found.references or "", partial(read_references, place)) if place else None
        judging = Judging(flow.accelerator, flow.progress, settings.judge_batch)
        rows = {"validation": found.items["validation"], "evaluation": []}
        mine = (judging, flow.accelerator, flow.progress)
        Images(run, {"arm": lambda: backbone}, rows, settings, metric, flow.recipe.seed, *mine).draw()
        sheets = {f"{scale:g}": read_sheet(run.tried_at("arm", scale)) for scale in settings.scales}
        curve = {scale: _score(judging, metric, sheet) for scale, sheet in sheets.items()}
        sets = [each for each in settings.metrics if isinstance(each, SetMetric)]
        figures = {
            each.name: judging.figures(each, {scale: Set(sheet) for scale, sheet in sheets.items()}, references)
            for each in sets
        }
        best = read_json(run.drawn, "")["scales"]["arm"]
        write_json(result, {"best": best, "curve": curve, "sets": figures})
    return json.loads(result.read_text())


def _score(judging: Judging, metric: Metric, sheet: Sequence[Picture]) -> float:
    values = [score.value for score in judging.scores(metric, sheet)]
    return round(overall([metric.group(picture.row) for picture in sheet], values), 4)


if __name__ == "__main__":
    main()
