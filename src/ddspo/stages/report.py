"""Everything in the run folder -> report.json for programs and report.html, one self-contained page, for people."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ddspo.errors import InputError
from ddspo.files import write_json, write_text
from ddspo.manifest import Manifest
from ddspo.maths.statistics import by_tag, overall, paired_bootstrap
from ddspo.pages.report import Judged, environment, page
from ddspo.pages.scores import grouped, paired
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder


def report(run: RunFolder, name: str, *, evaluated: bool = True) -> Row:
    """Write report.json and report.html, and return the former.

    Args:
        run: The run.
        name: Its title.
        evaluated: Whether there is an evaluation to report; without one the page shows training and pairs alone.

    Raises:
        InputError: The run should have been evaluated and was not.
    """
    judged = _judged(run) if evaluated else None
    result = {
        "name": name,
        "metrics": {judged.summary["metric"]: _metric(judged)} if judged else {},
        "fidelity": judged.summary["fidelity"] if judged else {},
        "stages": {stage: row["seconds"] for stage, row in Manifest(run).stages().items() if stage != "report"},
        "versions": environment(run).get("versions", {}),
    }
    write_json(run.report_json, result)
    write_text(run.report_html, page(run, result, judged))
    return result


def _judged(run: RunFolder) -> Judged:
    if not (run.scores.exists() and run.evaluation.exists()):
        raise InputError(f"{run.path}: not evaluated yet: run `ddspo evaluate` or `ddspo run`")
    rows = read_rows(run.scores)
    prompts = by_prompt([row for row in rows if row["split"] == "evaluation"])
    if not prompts:
        raise InputError(f"{run.scores}: no image was judged for both models: run `ddspo evaluate --fresh`")
    return Judged(rows, prompts, read_json(run.evaluation, "run `ddspo evaluate`"))


def by_prompt(rows: Sequence[Row]) -> list[Row]:
    """Prompts of one split {item, prompt, tag, base, aligned, difference}, with the rows of both models by seed.

    base[i] and aligned[i] always share a seed.
    """
    prompts: dict[int, Row] = {}
    for pair in paired(rows):
        start = {key: pair["base"][key] for key in ("item", "prompt", "tag")} | {"base": [], "aligned": []}
        prompt = prompts.setdefault(start["item"], start)
        for model in MODELS:
            prompt[model].append(pair[model])
    return [prompt | {"difference": _mean(prompt["aligned"]) - _mean(prompt["base"])} for prompt in prompts.values()]


def _metric(found: Judged) -> Row:
    """Score of both models, overall, by tag and by guidance scale, and how sure their difference is."""
    rows, prompts = found.rows, found.prompts
    judged = {model: _tags_and_values([row for prompt in prompts for row in prompt[model]]) for model in MODELS}
    scores = {model: overall(*judged[model]) for model in MODELS}
    tags = {model: by_tag(*judged[model]) for model in MODELS}
    return {
        **scores,
        "difference": scores["aligned"] - scores["base"],
        "interval": list(paired_bootstrap(_differences(prompts))),
        "by_tag": {tag: {model: tags[model][tag] for model in MODELS} for tag in tags["base"]},
        "prompts": len(prompts),
        "images_per_prompt": max(len(prompt["base"]) for prompt in prompts),
        "scales": found.summary["scales"],
        "curve": {model: _curve(rows, model) for model in MODELS},
        "by_scale": _by_scale(rows),
    }


def _by_scale(rows: Sequence[Row]) -> Row:
    """{scale: {difference, interval}} on the validation prompts, both models at the same scale."""
    validation = [row for row in rows if row["split"] == "validation"]
    found = {}
    for scale in sorted({row["scale"] for row in validation}):
        prompts = by_prompt([row for row in validation if row["scale"] == scale])
        if prompts:
            differences = _differences(prompts)
            mean = float(np.mean([values.mean() for values in differences.values()]))
            found[f"{scale:g}"] = {"difference": mean, "interval": list(paired_bootstrap(differences))}
    return found


def _curve(rows: Sequence[Row], model: str) -> dict[str, float]:
    """Validation score by guidance scale."""
    by_scale: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row["model"] == model and row["split"] == "validation":
            by_scale[row["scale"]].append(row)
    return {f"{scale:g}": overall(*_tags_and_values(by_scale[scale])) for scale in sorted(by_scale)}


def _differences(prompts: Sequence[Row]) -> dict[str, np.ndarray]:
    groups = grouped(prompts)
    return {tag: np.array([prompt["difference"] for prompt in groups[tag]]) for tag in groups}


def _tags_and_values(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    return [row["tag"] for row in rows], [row["value"] for row in rows]


def _mean(rows: Sequence[Row]) -> float:
    return float(np.mean([row["value"] for row in rows]))
