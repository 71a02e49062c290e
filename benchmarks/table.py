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
    """One run: score and scale of base and aligned, difference, and fidelity as base -> aligned."""
    metric, fidelity = report["metrics"]["geneval"], report["fidelity"]
    low, high = metric["interval"]
    cells = [report["name"]]
    cells += [f"{metric[model]:.3f} ({metric['scales'][model]:g})" for model in ("base", "aligned")]
    cells += [f"{metric['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}"]
    for name in ("confident", "distance", "diversity"):
        base, aligned = (fidelity[model][name] for model in ("base", "aligned"))
        cells.append("-" if None in (base, aligned) else f"{base:.3g} → {aligned:.3g}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
