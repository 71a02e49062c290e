"""What the cheapest supervision gains: arms of one recipe, against the forwards that they take.

    python benchmarks/cheap_pairs.py recipes/scenes.yaml --arm "sample.pairs=256 train.steps=30" "sample.steps=8"

runs every arm (a recipe with some overrides) with every seed: makes its pairs, or takes those that an arm before made
with the same settings, trains, draws the held-out prompts at one fixed guidance scale, and judges. The base draws once
a seed. Then it prints a table: forwards of sampling and training, a backward counted as two of them; the mean gain of
the seeds, with an interval from a paired bootstrap over prompts, each the mean of all seeds; each seed's gain; and the
Frechet distance of base and arm to the recipe's references. What is finished is kept when it is run again; `--table`
prints what there is and runs nothing.
"""

import argparse
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from compare import share

from ddspo import components, recipe
from ddspo.cost.work import Flops, count_work
from ddspo.judging.compare import difference
from ddspo.recipe import Recipe
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.workflow import Workflow

BACKWARD = 2
"""Forwards that a backward costs."""
NO_FLOPS = Flops(0, 0, 0)
"""Forwards alone are asked for."""
METRIC, DISTANCE = "geneval", "latent_distance"


class Arm(NamedTuple):
    """One finished run of an arm."""

    seed: int
    forwards: tuple[int, int]
    scores: list[Row]
    distances: list[float]


def main() -> None:
    """Run what is missing, seed by seed, and print the table."""
    options = _options()
    fixed = [f"out={options.out}", "validation.every=0", "validation.final=0", "trackers=[]", *options.set]
    if not options.table:
        for arm in options.arm:
            for seed in options.seeds:
                run(options.recipe, [*fixed, f"seed={seed}"], arm)
    print("| arm | sampling | training | gain | 95 % interval | by seed | distance |")
    print("|---|---|---|---|---|---|---|")
    for arm in options.arm:
        found = list(finished(options.recipe, fixed, options.seeds, arm))
        if found:
            print(row(arm, found), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--arm", nargs="+", required=True, help="overrides of the recipe, separated by spaces")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", default="runs/cheap")
    parser.add_argument("--set", nargs="*", default=["evaluate.scales=[3]", "evaluate.images=4"])
    parser.add_argument("--table", action="store_true", help="print what is finished, and run nothing")
    return parser.parse_args()


def run(path: Path, fixed: Sequence[str], arm: str, mark: str = "") -> None:
    """Carry one arm with one seed through all stages; pairs and the base's images are made once for all arms."""
    given = given_by(path, fixed, arm, mark)
    folder = RunFolder(given.folder)
    if folder.report_json.exists():
        return
    if "sample" in given.stages:
        how = given.sample
        made = repr(
            (given.seed, given.model, given.prompts, given.degradation, how, how.states, how.pairs, given.sides)
        )
        pairs = Workflow.start(recipe.load(path, [*fixed, *arm.split(), f"name=pairs-{_digest(made)}"]))
        pairs.run(("degrade", "sample"))
        share(pairs.folder, folder)
    base = given.folder.parent / f"base-{given.seed}"
    if base.exists():
        shutil.copytree(base, folder.images / MODELS[0], copy_function=_linked, dirs_exist_ok=True)
    Workflow.start(given).run()
    if not base.exists():
        shutil.copytree(folder.images / MODELS[0], base, copy_function=os.link)


def _linked(source: str, target: str) -> None:
    """Link a file, unless a run that was interrupted did."""
    if not Path(target).exists():
        os.link(source, target)


def finished(path: Path, fixed: Sequence[str], seeds: Sequence[int], arm: str) -> Iterator[Arm]:
    """What there is of an arm."""
    for seed in seeds:
        given = given_by(path, [*fixed, f"seed={seed}"], arm)
        folder = RunFolder(given.folder)
        if folder.report_json.exists():
            sets = read_json(folder.report_json, "")["sets"][DISTANCE]["models"]
            scores = read_rows(folder.scores / f"{METRIC}.jsonl")
            yield Arm(seed, forwards_of(given), scores, [sets[model]["value"] for model in MODELS])


def row(arm: str, found: Sequence[Arm]) -> str:
    """The table's row of an arm."""
    sides = [[_of_seed(each, row) for each in found for row in each.scores if _is_of(row, model)] for model in MODELS]
    every = difference(*sides)
    alone = [difference(*([row for row in each.scores if _is_of(row, model)] for model in MODELS)) for each in found]
    sampling, training = found[0].forwards
    base, aligned = (mean(each.distances[place] for each in found) for place in range(len(MODELS)))
    gains = " ".join(f"{each['difference']:+.3f}" for each in alone)
    low, high = every["interval"]
    cells = [arm, f"{sampling:,}", f"{training:,}", f"{every['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}", gains]
    return f"| {' | '.join([*cells, f'{base:.2f} → {aligned:.2f}'])} |"


def _of_seed(arm: Arm, row: Row) -> Row:
    """A score whose image is told from those of other seeds."""
    return row | {"index": (arm.seed, row["index"])}


def _is_of(row: Row, model: str) -> bool:
    return row["model"] == model and not row["control"]


def forwards_of(given: Recipe) -> tuple[int, int]:
    """Of sampling, and of training with its backwards."""
    work = count_work(given, components.backbone_of(given.model).load(given.model), NO_FLOPS)
    pretrained = (1 + BACKWARD) * work.pretrain_forwards
    trained = work.survey_forwards + work.frozen_forwards + (1 + BACKWARD) * work.policy_forwards
    return work.sample_forwards, pretrained + trained


def given_by(path: Path, fixed: Sequence[str], arm: str, mark: str = "") -> Recipe:
    """The recipe of an arm; the seed is the last of those that are given, and a mark tells its run from others."""
    seed = next(each.partition("=")[2] for each in fixed[::-1] if each.startswith("seed="))
    return recipe.load(path, [*fixed, *arm.split(), f"name=arm-{_digest(arm + mark)}-{seed}"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
