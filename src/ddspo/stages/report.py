"""Everything in the run folder -> report.json for programs and report.html, one self-contained page, for people."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ddspo.errors import InputError
from ddspo.files import write_json, write_text
from ddspo.maths.statistics import paired_bootstrap
from ddspo.metrics.geneval import by_tag, overall
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages import _report_figures as figures
from ddspo.stages._scores import MODELS, paired

SHOWN = 12
IMAGES = 4
FIDELITY = {
    "confident": ("confident", "share of images in which the detector is sure of every object"),
    "saturation": ("saturation", "mean over pixels of the largest minus the smallest colour channel, 0 to 1"),
    "distance": (
        "distance",
        "Fréchet distance of autoencoder feature statistics to reference images; lower is better",
    ),
    "diversity": ("diversity", "mean distance between the features of two images of one prompt from other seeds"),
}


class Judged(NamedTuple):
    """What an evaluation left: score rows, the evaluation prompts with both models' images, and evaluation.json."""

    rows: list[Row]
    prompts: list[Row]
    summary: Row


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
        "stages": {stage: row["seconds"] for stage, row in run.stages().items() if stage != "report"},
        "versions": _environment(run).get("versions", {}),
    }
    write_json(run.report_json, result)
    write_text(run.report_html, _page(run, result, judged))
    return result


def _judged(run: RunFolder) -> Judged:
    if not (run.scores.exists() and run.evaluation.exists()):
        raise InputError(f"{run.path}: not evaluated yet: run `ddspo evaluate` or `ddspo run`")
    rows = read_rows(run.scores)
    prompts = by_prompt([row for row in rows if row["split"] == "evaluation"])
    if not prompts:
        raise InputError(f"{run.scores}: no image was judged for both models: run `ddspo evaluate --fresh`")
    return Judged(rows, prompts, json.loads(run.evaluation.read_text(encoding="utf-8")))


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
    groups = _by_tag(prompts)
    return {tag: np.array([prompt["difference"] for prompt in groups[tag]]) for tag in groups}


def _by_tag(prompts: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for prompt in prompts:
        groups.setdefault(prompt["tag"], []).append(prompt)
    return groups


def _tags_and_values(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    return [row["tag"] for row in rows], [row["value"] for row in rows]


def _mean(rows: Sequence[Row]) -> float:
    return float(np.mean([row["value"] for row in rows]))


def _page(run: RunFolder, result: Row, judged: Judged | None) -> str:
    # Prompts and notes are anyone's text: autoescape everything; only the SVG drawn here is marked safe.
    environment = Environment(
        loader=PackageLoader("ddspo.stages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["picture"] = lambda path: figures.embed(run.path / path) if path else None
    environment.filters["plural"] = lambda number, noun: f"{number} {noun}{'' if number == 1 else 's'}"
    log, pretraining = _rows(run.log), _rows(run.pretraining.log)
    return environment.get_template("report.html.j2").render(
        result,
        **_evaluation(result, judged),
        models=MODELS,
        images=IMAGES,
        updates=len(log),
        training=figures.training(log) if log else [],
        pretraining_updates=len(pretraining),
        pretraining=figures.pretraining(pretraining) if pretraining else [],
        pairs=_rows(run.images / "pairs" / "pairs.jsonl"),
        recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else None,
        environment=_environment(run),
    )


def _evaluation(result: Row, judged: Judged | None) -> Row:
    """The template's variables that an evaluation fills."""
    if not judged:
        return {"metric": None}
    ((name, metric),) = result["metrics"].items()
    return {
        "metric_name": name,
        "metric": metric,
        "fidelity": _fidelity(result["fidelity"]),
        "groups": _selection(judged.prompts),
        "curve": figures.guidance(metric["curve"], metric["scales"]) if any(metric["curve"].values()) else None,
    }


def _selection(prompts: Sequence[Row]) -> list[Row]:
    """Groups of prompts to look at: improved most, got worse most, and every so many of the others of each tag."""
    places = {prompt["item"]: place for group in _by_tag(prompts).values() for place, prompt in enumerate(group)}
    # Equal differences take turns between the tags, or the first tag would fill the page.
    ranked = sorted(prompts, key=lambda prompt: (-abs(prompt["difference"]), places[prompt["item"]]))
    better = [prompt for prompt in ranked if prompt["difference"] > 0]
    worse = [prompt for prompt in ranked if prompt["difference"] < 0]
    shown = {prompt["item"] for prompt in [*better[:SHOWN], *worse[:SHOWN]]}
    others = [prompt for prompt in prompts if prompt["item"] not in shown]
    return [
        {"title": "Improved most", "of": f"{len(better)} of {len(prompts)} improved", "prompts": better[:SHOWN]},
        {"title": "Got worse most", "of": f"{len(worse)} of {len(prompts)} got worse", "prompts": worse[:SHOWN]},
        {"title": "Others", "of": "evenly spaced in each tag, whatever came out", "prompts": _spread(others)},
    ]


def _spread(prompts: Sequence[Row]) -> list[Row]:
    """At most SHOWN prompts, equally many and evenly spaced in each tag."""
    groups = list(_by_tag(prompts).values())
    count = max(1, SHOWN // max(1, len(groups)))
    chosen = [group[round(place)] for group in groups for place in _places(len(group), count)]
    return chosen[:SHOWN]


def _places(size: int, count: int) -> list[float]:
    return list(np.linspace(0, size - 1, min(size, count)))


def _fidelity(values: Row) -> list[Row]:
    """Rows of the fidelity table; a measure that was not taken is left out."""
    table = []
    for key, (title, meaning) in FIDELITY.items():
        base, aligned = (values.get(model, {}).get(key) for model in MODELS)
        if base is not None and aligned is not None:
            change = (aligned - base) / base if base else None
            table.append({"title": title, "meaning": meaning, "base": base, "aligned": aligned, "change": change})
    return table


def _rows(path: Path) -> list[Row]:
    return read_rows(path) if path.exists() else []


def _environment(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.exists() else {}
