"""Everything in the run folder -> report.json for programs and report.html, one self-contained page, for people."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from ddspo.maths.statistics import paired_bootstrap
from ddspo.metrics.geneval import by_tag, overall
from ddspo.run_folder import Row, RunFolder, read_rows, write_json, write_text
from ddspo.stages import _figures

MODELS = ("base", "aligned")
SHOWN = 12
THUMBNAIL = 256
FIDELITY = {
    "confident": ("readable images", "share of images in which the metric reads every object with confidence"),
    "saturation": ("colour saturation", "mean of max - min over the colour channels"),
    "distance": (
        "distance to references",
        "Fréchet distance of autoencoder features to real images; less is better",
    ),
    "diversity": ("diversity", "mean distance between features of two images of one prompt"),
}


def report(run: RunFolder, name: str) -> Row:
    """Write report.json and report.html, and return the former."""
    rows = read_rows(run.scores)
    evaluation = json.loads(run.evaluation.read_text())
    result = summary(run, name, rows, evaluation)
    write_json(run.report_json, result)
    write_text(run.report_html, _page(run, rows, result, evaluation["metric"]))
    return result


def summary(run: RunFolder, name: str, rows: Sequence[Row], evaluation: Row) -> Row:
    """The figures of a run: {name, metrics, fidelity, stages, versions}."""
    judged = {model: _of(rows, model, "evaluation") for model in MODELS}
    scores = {model: overall(*_tags_and_values(judged[model])) for model in MODELS}
    tags = {model: by_tag(*_tags_and_values(judged[model])) for model in MODELS}
    prompts = _by_prompt(rows)
    metric = {
        **scores,
        "difference": scores["aligned"] - scores["base"],
        "interval": list(paired_bootstrap(_differences(prompts))),
        "by_tag": {tag: {model: tags[model][tag] for model in MODELS} for tag in tags["base"]},
        "prompts": len(prompts),
        "images_per_prompt": len(judged["base"]) // len(prompts),
        "scales": evaluation["scales"],
        "curve": {model: _curve(rows, model) for model in MODELS},
    }
    stages = {stage: row["seconds"] for stage, row in run.stages().items() if stage != "report"}
    return {
        "name": name,
        "metrics": {evaluation["metric"]: metric},
        "fidelity": evaluation["fidelity"],
        "stages": stages,
        "versions": json.loads(run.environment.read_text())["versions"],
    }


def _of(rows: Sequence[Row], model: str, split: str) -> list[Row]:
    return [row for row in rows if row["model"] == model and row["split"] == split]


def _tags_and_values(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    return [row["tag"] for row in rows], [row["value"] for row in rows]


def _curve(rows: Sequence[Row], model: str) -> dict[str, float]:
    """Validation score by guidance scale."""
    mine = _of(rows, model, "validation")
    scales = sorted({row["scale"] for row in mine})
    return {f"{scale:g}": overall(*_tags_and_values([r for r in mine if r["scale"] == scale])) for scale in scales}


def _by_prompt(rows: Sequence[Row]) -> list[Row]:
    """Each evaluation prompt with the rows of both models, in the order of the images' seeds."""
    prompts: dict[int, Row] = {}
    for row in sorted((row for row in rows if row["split"] == "evaluation"), key=lambda r: (r["item"], r["index"])):
        new = {"prompt": row["prompt"], "tag": row["tag"], "base": [], "aligned": []}
        prompts.setdefault(row["item"], new)[row["model"]].append(row)
    for prompt in prompts.values():
        prompt["difference"] = float(np.mean([r["value"] for r in prompt["aligned"]])) - float(
            np.mean([r["value"] for r in prompt["base"]])
        )
    return list(prompts.values())


def _differences(prompts: Sequence[Row]) -> dict[str, np.ndarray]:
    tags = dict.fromkeys(prompt["tag"] for prompt in prompts)
    return {tag: np.array([p["difference"] for p in prompts if p["tag"] == tag]) for tag in tags}


def _page(run: RunFolder, rows: Sequence[Row], result: Row, name: str) -> str:
    log = read_rows(run.log) if run.log.exists() else []
    metric = result["metrics"][name]
    environment = Environment(loader=PackageLoader("ddspo.stages", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"image": lambda path: _embed(run.path / path), "percent": lambda x: f"{100 * x:.0f} %"}
    return environment.get_template("report.html.j2").render(
        name=result["name"],
        metric_name=name,
        metric=metric,
        models=MODELS,
        fidelity=_fidelity(result["fidelity"]),
        groups=_selection(_by_prompt(rows)),
        curve=_figures.guidance(metric["curve"]) if any(metric["curve"].values()) else None,
        training=_figures.training(log) if log else None,
        pairs=_pairs(run),
        recipe=run.recipe.read_text(encoding="utf-8"),
        stages=result["stages"],
        environment=json.loads(run.environment.read_text()),
    )


def _selection(prompts: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The prompts that improved most, those that got worse most, and some of each tag that did neither."""
    ranked = sorted(prompts, key=lambda prompt: -prompt["difference"])
    better = [prompt for prompt in ranked if prompt["difference"] > 0]
    worse = [prompt for prompt in reversed(ranked) if prompt["difference"] < 0]
    same = [prompt for prompt in prompts if prompt["difference"] == 0]
    return [
        (f"Improved: {len(better)} of {len(prompts)} prompts", better[:SHOWN]),
        (f"Got worse: {len(worse)} of {len(prompts)} prompts", worse[:SHOWN]),
        (f"As before: {len(same)} of {len(prompts)} prompts", same[:: max(1, len(same) // SHOWN)][:SHOWN]),
    ]


def _fidelity(values: Row) -> list[Row]:
    """Rows of the fidelity table; a measure that was not taken is left out."""
    table = []
    for key, (title, meaning) in FIDELITY.items():
        base, aligned = (values[model][key] for model in MODELS)
        if base is not None and aligned is not None:
            change = (aligned - base) / base if base else 0.0
            table.append({"title": title, "meaning": meaning, "base": base, "aligned": aligned, "change": change})
    return table


def _pairs(run: RunFolder) -> list[Row]:
    folder = run.images / "pairs"
    rows = read_rows(folder / "pairs.jsonl") if folder.exists() else []
    places = [{kind: f"images/pairs/{row['n']}-{kind}.png" for kind in ("win", "lose")} for row in rows]
    return [row | place for row, place in zip(rows, places, strict=True)]


def _embed(path: Path) -> Any:
    """An image as a data URI: small ones as they are, large ones as thumbnails."""
    image = Image.open(path).convert("RGB")
    kind = "PNG" if max(image.size) <= THUMBNAIL else "JPEG"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
