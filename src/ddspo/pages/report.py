"""report.html: one self-contained page of everything that is in a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ddspo.pages import figures
from ddspo.pages.scores import grouped
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder

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


def page(run: RunFolder, result: Row, judged: Judged | None) -> str:
    """The whole page of a run's report.json."""
    # Prompts and notes are anyone's text: autoescape everything; only the SVG drawn here is marked safe.
    templates = Environment(
        loader=PackageLoader("ddspo.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["picture"] = lambda path, side: figures.embed(run.path / path, side) if path else None
    templates.filters["plural"] = lambda number, noun: f"{number} {noun}{'' if number == 1 else 's'}"
    log, pretraining = _rows(run.log), _rows(run.pretraining.log)
    drawn = _rows(run.samples / "samples.jsonl")
    return templates.get_template("report.html.j2").render(
        result,
        **_evaluation(result, judged),
        models=MODELS,
        drawn_rows=drawn[:SHOWN],
        drawn_count=len(drawn),
        images=IMAGES,
        updates=len(log),
        training=figures.training(log) if log else [],
        pretraining_updates=len(pretraining),
        pretraining=figures.pretraining(pretraining) if pretraining else [],
        pairs=_rows(run.images / "pairs" / "pairs.jsonl"),
        recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else None,
        environment=environment(run),
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
    places = {prompt["item"]: place for group in grouped(prompts).values() for place, prompt in enumerate(group)}
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
    groups = list(grouped(prompts).values())
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


def environment(run: RunFolder) -> dict[str, Any]:
    """Versions and machine, empty where nothing says so."""
    return read_json(run.environment, "run `ddspo run` again") if run.environment.exists() else {}
