"""What methods gain at equal distance from real images: the tuning runs of evidence.py, by learning rate.

    python benchmarks/evidence.py tune --out runs/evidence
    python benchmarks/fidelity.py --out runs/evidence --marks 1.05 1.1

Each method's runs of one seed, and the base with no gain, are points of gain against distance. Between the two nearest
points the gain of every prompt is interpolated to a distance of the base's times a mark. A seed whose runs do not get
that far is left out, and a method without any seed has an empty cell.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from evidence import METHODS, TUNED, founds, study_of
from gains import Gain, at_distance, interval


def main() -> None:
    """Print the table of what is finished."""
    options = _options()
    study = study_of("tune", options)
    runs: dict[str, dict[int, list[Gain]]] = {}
    for case in study.cases:
        label = f"{case.method}, {case.what}" if case.what else case.method
        for found in founds(study, case):
            runs.setdefault(label, {}).setdefault(found.seed, []).append(found)
    print(f"| method | {' | '.join(f'gain at {mark:g} of the distance, interval, seeds' for mark in options.marks)} |")
    print("|---" * (1 + len(options.marks)) + "|")
    for label, seeds in runs.items():
        print(f"| {label} | {' | '.join(cell([*seeds.values()], mark) for mark in options.marks)} |")


def cell(seeds: Sequence[Sequence[Gain]], mark: float) -> str:
    """Mean gain and interval over the seeds that reach a distance."""
    found = [gains for each in seeds if (gains := at_distance(each, mark)) is not None]
    if not found:
        return ""
    means = [mean(float(values.mean()) for values in each.values()) for each in found]
    return f"{mean(means):+.3f} ({interval(found)}), {len(found)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/scenes.yaml"))
    parser.add_argument("--out", default="runs/evidence")
    parser.add_argument("--found", type=Path, help="rows of finished runs; OUT/found.jsonl if not given")
    parser.add_argument("--scale", type=float, default=3.0, help="guidance, of base and aligned alike")
    parser.add_argument("--images", type=int, default=2, help="of each prompt")
    parser.add_argument("--seeds", nargs="+", type=int, default=TUNED)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--marks", nargs="+", type=float, default=[1.05, 1.1], help="distances, of the base's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
