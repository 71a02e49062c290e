"""What would convince a reviewer: objectives tuned alike, then compared on seeds that nothing was chosen by.

    python benchmarks/evidence.py tune few methods supervision labels batches longer --out runs/evidence
    python benchmarks/evidence.py tune methods --table    # prints what is finished, and runs nothing
    python benchmarks/evidence.py methods --budget        # prints what is missing, and the seconds that it will take

Every run makes its pairs, or takes those that a run before made with the same settings, trains, draws some prompts at
one guidance scale, and judges. `tune` tries every method with the same learning rates, on the validation prompts of
seeds 11 and 12, and `few` two methods with few pairs; the others take each method's best that stays near fresh
renders, and held-out prompts of fresh seeds.
What is finished is a row of OUT/found.jsonl, or of the file that `--found` names, and is not run again; `--part 0/2`
and `--part 1/2` share the seeds between two processes. `--rates METHOD=RATE` takes learning rates that were tuned
elsewhere.

A gain is the mean over seeds of aligned less base, each of the same noise; its interval is from a bootstrap that draws
seeds, and prompts within them.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from cheap_pairs import forwards_of, given_by, run
from exchanged import exchanged
from gains import Gain, gain_of, less, summary
from records import Record, Records

from ddspo.errors import InputError
from ddspo.recipe import Recipe
from ddspo.rows import Row
from ddspo.run_folder import RunFolder

RATES = ("1e-4", "3e-4", "9e-4")
"""Learning rates that every method is tried with."""
TUNED, FRESH = (11, 12), (21, 22, 23, 24, 25)
BUDGET = "sample.pairs=512 train.steps=30 train.batch=32"
"""Pairs, updates and pairs an update of every run, unless a study says other ones."""
NOISE = "policy_pair=forward_noise"
PRETRAIN = "pretrain.train.steps=100 pretrain.train.batch=32 pretrain.train.device_batch=32 pretrain.train.lr=5e-4"
JUDGED = 'sample.labels.candidates=3 sample.labels.judge={"geneval":{"detector":"scenes"}}'
METHODS = {
    "TF-CPP": "policy_pair=training_free",
    "DD-CPP": f"policy_pair=data_driven {PRETRAIN} pretrain.adaptation.lora.rank=16",
    "Diffusion-DPO": NOISE,
    "DMPO": f"{NOISE} objective=dmpo objective.dmpo.beta=1000",
    "Linear-DPO": f"{NOISE} objective=linear objective.linear.beta=1000",
    "KTO": f"{NOISE} objective=kto objective.kto.beta=1000",
    "SFT": f"{NOISE} objective=sft",
    "DD-CPP, judged": f"policy_pair=data_driven {PRETRAIN} pretrain.adaptation.lora.rank=16 {JUDGED}",
    "Diffusion-DPO, judged": f"{NOISE} {JUDGED}",
}
VALIDATION = ("evaluate.prompts=package://ddspo.scenes/data/validation.jsonl", "evaluate.validation=null")
SAMPLING = ("sample.steps=15", "sample.guidance=3", "evaluate.steps=15")
"""Labelled methods follow the samples themselves, so that these are not the cheapest."""
METRICS = "{geneval: {detector: scenes}}, {confident: {detector: scenes}}, {latent_distance: {model: MODEL}}"
VALIDATED = "validation.every=30 validation.scored=116 validation.batch=64 validation.save=best"
RIVALS = ("TF-CPP", "Diffusion-DPO")
COUNTS = (16, 64, 256, 1024)
FEW = 64
"""Pairs up to which a method is tuned on its own."""
BATCHES = (8, 16, 64)
MOST = 1.25
"""Distance to fresh renders, in those of the base, up to which a learning rate may be chosen."""
LENGTHS = (60, 120, 240)
SEEN = 960
"""Pairs that the updates of a run see in all."""

Best = Callable[..., str]
"""The best overrides of a method, and of its runs with further overrides."""


class Case(NamedTuple):
    """A row of a table.

    Attributes:
        what: In what it differs from the method's usual run, in words.
        arm: Overrides of the recipe.
        wrong: Share of pairs whose winner and loser are exchanged.
    """

    method: str
    what: str
    arm: str
    wrong: float = 0.0


class Study(NamedTuple):
    """A table's rows, and what is the same in all of their runs.

    Attributes:
        fixed: Overrides of the recipe.
        records: Where finished runs are.
        about: What tells the runs there from those of other studies.
    """

    recipe: Path
    fixed: list[str]
    seeds: Sequence[int]
    cases: list[Case]
    records: Records
    about: Row


def main() -> None:
    """Run what is missing of some studies, or print what there is."""
    options = _options()
    part, parts = map(int, options.part.split("/"))
    for name in options.studies:
        study = study_of(name, options)
        missing = [(case, seed) for seed in study.seeds for case in study.cases if not _done(study, case, seed)]
        if options.budget:
            every = [_record(study, case, seed) for case in study.cases for seed in study.seeds]
            one = median([each.seconds for each in every if each] or [60])
            print(f"{name}: {len(missing)} runs missing, {len(missing) * one:.0f} s")
            continue
        for case, seed in missing if not options.table else ():
            if study.seeds.index(seed) % parts == part:
                _run(study, case, seed)
        print(f"\n## {name}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for case in study.cases:
            if founds(study, case):
                print(row(study, case), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=[*TUNING, *STUDIES])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/scenes.yaml"))
    parser.add_argument("--out", default="runs/evidence")
    parser.add_argument("--scale", type=float, default=3.0, help="guidance, of base and aligned alike")
    parser.add_argument("--images", type=int, default=2, help="of each prompt")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], help="of `tune`, `few` and `methods`"
    )
    parser.add_argument("--found", type=Path, help="rows of finished runs; OUT/found.jsonl if not given")
    parser.add_argument("--rates", nargs="+", default=[], metavar="METHOD=RATE", help="in place of `tune` and `few`")
    parser.add_argument("--part", default="0/1", help="of the seeds, for one of several processes")
    parser.add_argument("--table", action="store_true", help="print what is finished, and run nothing")
    parser.add_argument("--budget", action="store_true", help="print what is missing, and run nothing")
    return parser.parse_args()


def study_of(name: str, options: argparse.Namespace) -> Study:
    """A study by name; all but `tune` and `few` need what these found."""
    tunes, path = name in TUNING, options.recipe
    model = given_by(path, ["seed=0"], "").model.path
    out = Path(options.out) / ("tune" if tunes else "fresh")
    fixed = [f"out={out}", "validation.every=0", "validation.final=0", "trackers=[]", *SAMPLING]
    fixed += [f"evaluate.images={options.images}"]
    fixed += [f"evaluate.metrics=[{METRICS.replace('MODEL', model)}]", f"evaluate.scales=[{options.scale:g}]"]
    records = Records(options.found or Path(options.out) / "found.jsonl")
    about = {"recipe": path.stem, "prompts": "validation" if tunes else "held-out"}
    about |= {"guidance": options.scale, "images": options.images}
    if tunes:
        cases = TUNING[name](options.methods)
        return Study(path, [*fixed, *VALIDATION], options.seeds or TUNED, cases, records, about)
    tune = study_of("tune", argparse.Namespace(**vars(options) | {"seeds": None}))
    rates = dict(each.rsplit("=", 1) for each in options.rates)
    cases = STUDIES[name](partial(chosen, tune, rates), options.methods)
    return Study(path, fixed, options.seeds or FRESH, cases, records, about)


def tune(names: Sequence[str]) -> list[Case]:
    """Every method with every learning rate."""
    return [Case(name, "", arm_of(name, rate)) for name in names for rate in RATES]


def few(names: Sequence[str]) -> list[Case]:
    """The two rivals with few pairs and every learning rate."""
    every = [(name, n) for name in RIVALS if name in names for n in COUNTS if n <= FEW]
    return [Case(name, f"{n} pairs", arm_of(name, rate, few_of(n))) for name, n in every for rate in RATES]


def arm_of(method: str, rate: str, more: str = "") -> str:
    """Overrides of a method with a learning rate."""
    return f"{BUDGET} {METHODS[method]} train.lr={rate}{more}"


def few_of(pairs: int) -> str:
    """Overrides of a number of pairs that is tuned on its own; others take the usual number's learning rate."""
    return f" sample.pairs={pairs}" if pairs <= FEW else ""


def chosen(tune: Study, rates: Mapping[str, str], method: str, more: str = "") -> str:
    """A method's overrides with a learning rate that is given, or else with the best of those that were tried.

    That is the one of the largest mean gain, over the seeds that all have; of those that stay near fresh renders; if
    none does, the one that stays nearest.
    """
    if method in rates:
        return arm_of(method, rates[method], more)
    cases = [Case(method, "", arm_of(method, rate, more)) for rate in RATES]
    seeds = [seed for seed in tune.seeds if all(_done(tune, case, seed) for case in cases)]
    if not seeds:
        raise InputError(f"{method}{more}: not tuned yet: run `tune` and `few` first, or give its rate with --rates")
    found = [(case.arm, founds(tune._replace(seeds=seeds), case)) for case in cases]
    tried = [(arm, mean(each.mean for each in runs), grown(runs)) for arm, runs in found]
    near = [each for each in tried if each[2] <= MOST] or [min(tried, key=lambda each: each[2])]
    return max(near, key=lambda each: each[1])[0]


def grown(runs: Sequence[Gain]) -> float:
    """Distance of some runs, in those of their bases."""
    base, aligned = (mean(each.distance[place] for each in runs) for place in range(2))
    return aligned / base


def methods(best: Best, names: Sequence[str]) -> list[Case]:
    """Each with its own learning rate."""
    return [Case(name, "", best(name)) for name in names]


def supervision(best: Best, _: Sequence[str]) -> list[Case]:
    """Fewer and more pairs, the fewest with learning rates of their own."""
    every = [(name, n, best(name, few_of(n))) for name in RIVALS for n in COUNTS]
    return [Case(name, f"{n} pairs", arm if few_of(n) else f"{arm} sample.pairs={n}") for name, n, arm in every]


def labels(best: Best, _: Sequence[str]) -> list[Case]:
    """Winners and losers exchanged."""
    wrong, names = {"a third wrong": 1 / 3, "half wrong": 0.5}, (*RIVALS, "DMPO")
    return [Case(name, which, best(name), share) for name in names for which, share in wrong.items()]


def batches(best: Best, _: Sequence[str]) -> list[Case]:
    """Smaller and larger ones, of as many pairs in all."""
    sizes = {n: f"train.batch={n} train.device_batch={min(n, 32)} train.steps={SEEN // n}" for n in BATCHES}
    return [Case(name, f"{n} an update", f"{best(name)} {sizes[n]}") for name in RIVALS for n in BATCHES]


def longer(best: Best, _: Sequence[str]) -> list[Case]:
    """More updates, and of the most those that scored best on validation prompts."""
    names, last = (*RIVALS, "KTO"), LENGTHS[-1]
    cases = [Case(name, f"{n} updates", f"{best(name)} train.steps={n}") for name in names for n in LENGTHS]
    kept = f"train.steps={last} {VALIDATED}"
    return cases + [Case(name, f"best of {last} updates", f"{best(name)} {kept}") for name in names]


STUDIES: dict[str, Callable[[Best, Sequence[str]], list[Case]]] = {
    each.__name__: each for each in (methods, supervision, labels, batches, longer)
}
TUNING: dict[str, Callable[[Sequence[str]], list[Case]]] = {each.__name__: each for each in (tune, few)}
COLUMNS = (
    *("run", "rate", "seeds", "sampling", "training", "gain", "95 % interval", "by seed", "distance", "readable"),
    f"less {RIVALS[1]}",
)


def row(study: Study, case: Case) -> str:
    """The table's row of a case, some of whose runs are finished."""
    found = founds(study, case)
    forwards = [f"{count:,}" for count in forwards_of(_given(study, case, found[0].seed))]
    rate = case.arm.rpartition(" train.lr=")[2].partition(" ")[0]
    same = [each for each in study.cases if (each.method, each.what) == (RIVALS[1], case.what)]
    rival = founds(study, same[0]) if len(same) == 1 and case.method != RIVALS[1] else []
    label = f"{case.method}, {case.what}" if case.what else case.method
    return f"| {' | '.join([label, rate, str(len(found)), *forwards, *summary(found), less(found, rival)])} |"


def founds(study: Study, case: Case) -> list[Gain]:
    """The finished runs of a case."""
    return [each.gain for seed in study.seeds if (each := _record(study, case, seed))]


def _run(study: Study, case: Case, seed: int) -> None:
    began, given = time.monotonic(), _given(study, case, seed)
    with exchanged(case.wrong, seed) if case.wrong else nullcontext():
        run(study.recipe, _fixed(study, seed), case.arm, _mark(case))
    gain = gain_of(RunFolder(given.folder), seed)
    study.records.add(_which(study, case, seed), time.monotonic() - began, gain)


def _done(study: Study, case: Case, seed: int) -> bool:
    return _record(study, case, seed) is not None


def _record(study: Study, case: Case, seed: int) -> Record | None:
    return study.records.get(_which(study, case, seed))


def _which(study: Study, case: Case, seed: int) -> Row:
    return study.about | {"arm": case.arm, "wrong": round(case.wrong, 3), "seed": seed}


def _given(study: Study, case: Case, seed: int) -> Recipe:
    return given_by(study.recipe, _fixed(study, seed), case.arm, _mark(case))


def _fixed(study: Study, seed: int) -> list[str]:
    return [*study.fixed, f"seed={seed}"]


def _mark(case: Case) -> str:
    return f" {case.wrong:.3f} wrong" if case.wrong else ""


if __name__ == "__main__":
    main()
