"""From scores to comparisons: each model's score, and how it differs from the first's, prompt by prompt.

A score row says whose image it is (model, item, index, and on validation prompts the scale), how it counts (tag,
group) and what came out (value, note).
"""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddspo.maths.statistics import by_tag, overall, paired_bootstrap, wilson_interval
from ddspo.metrics.base import Measure
from ddspo.rows import Row


class Prompt(NamedTuple):
    """What two models made of a prompt: the means over the images that both have of it."""

    group: str
    first: float
    other: float


def described(measure: Measure) -> Row:
    """What a metric says of itself."""
    weights = list(dict.fromkeys(measure.weights))
    return {
        "title": measure.title,
        "about": (inspect.getdoc(type(measure)) or "").partition("\n")[0],
        "higher_is_better": measure.higher_is_better,
        "licences": [f"{each.name} ({each.terms()})" for each in weights],
        "commercial": all(each.commercial for each in weights),
    }


def compared(models: Sequence[str], rows: Sequence[Row], *, higher_is_better: bool = True) -> Row:
    """Scores of some models on the same prompts, and how all but the first differ from the first.

    Args:
        models: Names; the first is the baseline.
        rows: Of one metric and split, those of controls among them.
        higher_is_better: Whether a higher score wins a prompt.

    Raises:
        ValueError: A model has no row.
    """
    own: dict[str, list[Row]] = {model: [] for model in models}
    controls: dict[str, list[Row]] = {model: [] for model in models}
    for row in rows:
        (controls if row["control"] else own)[row["model"]].append(row)
    found: Row = {}
    for model in models:
        if not own[model]:
            raise ValueError(f"no score of {model}")
        found[model] = _scored(own[model], controls[model])
        if model != models[0]:
            found[model] |= difference(own[models[0]], own[model], higher_is_better=higher_is_better)
    items: dict[str, int] = defaultdict(int)
    for row in own[models[0]]:
        items[row["item"]] += 1
    return {"prompts": len(items), "images_per_prompt": max(items.values()), "models": found}


def difference(first: Sequence[Row], other: Sequence[Row], *, higher_is_better: bool = True) -> Row:
    """{difference, interval, won, won_interval} over the images that both have; empty where they share none.

    The interval is a paired bootstrap over prompts within groups. A prompt is won where the mean over its images is
    better, ties count half; Wilson's interval.
    """
    prompts = _paired(first, other)
    if not prompts:
        return {}
    differences: dict[str, list[float]] = defaultdict(list)
    for prompt in prompts:
        differences[prompt.group].append(prompt.other - prompt.first)
    every: dict[str, NDArray[np.float64]] = {group: np.array(values) for group, values in differences.items()}
    better = np.sign(np.concatenate([*every.values()])) * (1 if higher_is_better else -1)
    won = float(np.mean((better + 1) / 2))
    return {
        "difference": float(np.mean([values.mean() for values in every.values()])),
        "interval": list(paired_bootstrap(every)),
        "won": won,
        "won_interval": list(wilson_interval(won, len(prompts))),
    }


def curves(models: Sequence[str], rows: Sequence[Row]) -> Row:
    """{curve, by_scale, given_up}: scores by guidance scale, differences from the first at equal ones, and more.

    That is the scales that have fewer images than others, because the first ones showed them to be the best of no
    model: their scores are those of these images.
    """
    if not rows:
        return {"curve": {}, "by_scale": {}, "given_up": []}
    scaled: dict[str, dict[float, list[Row]]] = {model: defaultdict(list) for model in models}
    for row in rows:
        if row["model"] in scaled:
            scaled[row["model"]][row["scale"]].append(row)
    first = scaled[models[0]]
    counts = {(model, scale): len(rows) for model, found in scaled.items() for scale, rows in found.items()}
    few = {scale for (model, scale), count in counts.items() if count < max(counts.values())}
    return {
        "curve": {
            model: {f"{scale:g}": _overall(found[scale]) for scale in sorted(found)} for model, found in scaled.items()
        },
        "by_scale": {
            model: {
                f"{scale:g}": {
                    key: value for key, value in difference(first[scale], found[scale]).items() if "won" not in key
                }
                for scale in sorted(found)
                if scale in first
            }
            for model, found in list(scaled.items())[1:]
        },
        "given_up": [f"{scale:g}" for scale in sorted(few)],
    }


def _scored(rows: Sequence[Row], controls: Sequence[Row]) -> Row:
    return {
        "score": _overall(rows),
        "by_tag": by_tag([row["tag"] for row in rows], [row["value"] for row in rows]),
        "control": _overall(controls) if controls else None,
    }


def _overall(rows: Sequence[Row]) -> float:
    return overall([row["group"] for row in rows], [row["value"] for row in rows])


def _paired(first: Sequence[Row], other: Sequence[Row]) -> list[Prompt]:
    """In the order of the first."""
    theirs = {(row["item"], row["index"]): row["value"] for row in other}
    values: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in first:
        place = row["item"], row["index"]
        if place in theirs:
            values[row["group"], row["item"]].append((row["value"], theirs[place]))
    return [Prompt(group, *map(float, np.mean(pairs, axis=0))) for (group, _), pairs in values.items()]
