"""report.html: one self-contained page of everything that is in a run folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ddspo.pages import figures, gallery, tables, words
from ddspo.pages.scores import frames, is_verdict, score_rows
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder

DRAWN = 12
"""Prompts of which the pictures of the end of training are shown."""
SIDE = 320
"""Pixels of a side of an evaluated picture, at most."""


def page(run: RunFolder, result: Row) -> str:
    """The whole page of a run's report.json.

    Raises:
        InputError: It was evaluated, and the scores are gone.
    """
    log, pretraining = _rows(run.log), _rows(run.pretraining.log)
    drawn = _rows(run.samples / "samples.jsonl")
    return (
        _templates(run)
        .get_template("report.html.j2")
        .render(
            result,
            **(_evaluation(run, result) if result["metrics"] else {"metric": None}),
            sets_table=tables.sets(result),
            pair=MODELS,
            pair_keys=tables.keys(MODELS),
            drawn_rows=drawn[:DRAWN],
            drawn_count=len(drawn),
            updates=len(log),
            pace=_pace(log),
            training=figures.training(log) if log else [],
            pretraining_updates=len(pretraining),
            pretraining=figures.pretraining(pretraining) if pretraining else [],
            pairs=_rows(run.images / "pairs" / "pairs.jsonl"),
            recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else None,
            environment=environment(run),
        )
    )


def _templates(run: RunFolder) -> Environment:
    # Prompts, notes and names are anyone's text: autoescape everything; only the SVG drawn here is marked safe.
    templates = Environment(
        loader=PackageLoader("ddspo.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"picture": lambda path, side: _embed(run, side)(path) if path else None, "words": words}
    templates.globals["tone"] = {"better": "good", "worse": "bad", "": ""}
    templates.filters["plural"] = lambda number, noun: f"{number} {noun}{'' if number == 1 else 's'}"
    return templates


def _evaluation(run: RunFolder, result: Row) -> dict[str, Any]:
    """The template's variables that an evaluation fills."""
    head = result["choose"] if result["choose"] in result["metrics"] else next(iter(result["metrics"]))
    metric, models = result["metrics"][head], result["models"]
    curves = metric["curve"]
    scores = {name: score_rows(run, name) for name in result["metrics"]}
    verdicts = {name: is_verdict(rows) for name, rows in scores.items()}
    return {
        "metric": metric,
        "head": list(result["metrics"]).index(head),
        "digits": words.decimals(metric),
        "keys": tables.keys(models),
        "trained": words.trained(models),
        "without_guidance": tables.without_guidance(result),
        "table": tables.metrics(result),
        "tags": tables.tags(result, verdicts),
        "curve": figures.guidance(models, curves, result["scales"]) if any(curves.values()) else None,
        "gallery": gallery.gallery(result, frames(scores), verdicts, _embed(run, SIDE)),
        "ways": gallery.WAYS,
    }


def _embed(run: RunFolder, side: int) -> Callable[[str], figures.Picture | None]:
    return lambda path: figures.embed(run.path / path, side)


def _pace(log: Sequence[Row]) -> str:
    """How long an update took, and the most memory of one, where the log says so."""
    seconds, peaks = ([row[name] for row in log if name in row] for name in ("seconds", "peak_bytes"))
    found = [f"{median(seconds):.3g} s each in the median"] if seconds else []
    return ", ".join([*found, *([f"{max(peaks) / 2**30:.2f} GiB at most"] if peaks else [])])


def _rows(path: Path) -> list[Row]:
    return read_rows(path) if path.exists() else []


def environment(run: RunFolder) -> dict[str, Any]:
    """Versions and machine, empty where nothing says so."""
    return read_json(run.environment, "run `ddspo run` again") if run.environment.exists() else {}
