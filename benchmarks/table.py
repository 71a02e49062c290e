"""The results table in Markdown from finished runs: `python benchmarks/table.py runs/scenes-*`."""

import json
import sys
from pathlib import Path


def main(folders: list[str]) -> None:
    """One row a run folder."""
    print("| run | base (scale) | aligned (scale) | difference | 95 % interval | confident | distance | diversity |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        print(row(json.loads((Path(folder) / "report.json").read_text())))


def row(report: dict) -> str:
    """One run: score and scale of base and aligned, difference, and what else was judged as base -> aligned."""
    models = report["metrics"]["geneval"]["models"]
    low, high = models["aligned"]["interval"]
    cells = [report["name"]]
    cells += [f"{models[model]['score']:.3f} ({report['scales'][model]:g})" for model in ("base", "aligned")]
    cells += [f"{models['aligned']['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}"]
    figures = {name: ("score", found["models"]) for name, found in report["metrics"].items()}
    figures |= {name: ("value", found["models"]) for name, found in report["sets"].items()}
    for name in ("confident", "latent_distance", "latent_diversity"):
        key, found = figures.get(name, ("", {}))
        both = [found[model][key] for model in ("base", "aligned")] if found else []
        cells.append(f"{both[0]:.3g} → {both[1]:.3g}" if both else "-")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
