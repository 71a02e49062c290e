"""What finished runs gained: of every prompt, aligned less base, and intervals over seeds and prompts."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

import numpy as np
from cheap_pairs import DISTANCE, METRIC
from numpy.typing import NDArray

from ddspo.maths.statistics import nested_bootstrap
from ddspo.rows import read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder

READABLE = "confident"


class Gain(NamedTuple):
    """A finished run.

    Attributes:
        by_tag: Aligned less base of each prompt, the mean over its images.
        distance: Frechet distance to the recipe's references, of base and aligned.
        readable: Share of images in which something is found with confidence, of base and aligned.
    """

    seed: int
    by_tag: dict[str, NDArray[np.float64]]
    distance: tuple[float, ...]
    readable: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the tags' means."""
        return float(np.mean([values.mean() for values in self.by_tag.values()]))


def gain_of(folder: RunFolder, seed: int) -> Gain:
    """Of a run whose report is written."""
    figures = read_json(folder.report_json, "")["sets"][DISTANCE]["models"]
    readable = (float(np.mean([*side.values()])) for side in _values(folder, READABLE))
    return Gain(seed, by_tag_of(folder), tuple(figures[model]["value"] for model in MODELS), tuple(readable))


def summary(found: Sequence[Gain]) -> list[str]:
    """Cells of a table: mean gain, its interval, each seed's, and distance and readable images of base and aligned."""
    sides = [([each.distance for each in found], 2), ([each.readable for each in found], 3)]
    means = [" → ".join(f"{mean(one):.{digits}f}" for one in zip(*side, strict=True)) for side, digits in sides]
    by_seed = " ".join(f"{each.mean:+.3f}" for each in found)
    return [f"{mean(each.mean for each in found):+.3f}", interval([each.by_tag for each in found]), by_seed, *means]


def less(found: Sequence[Gain], rival: Sequence[Gain]) -> str:
    """How much more some runs gained than a rival's of the same seeds, and the interval; nothing where none is."""
    theirs = {each.seed: each.by_tag for each in rival}
    pairs = [(each.by_tag, theirs[each.seed]) for each in found if each.seed in theirs]
    differences = [{tag: values - other[tag] for tag, values in mine.items()} for mine, other in pairs]
    if not differences:
        return ""
    means = [float(np.mean([values.mean() for values in each.values()])) for each in differences]
    return f"{mean(means):+.3f} ({interval(differences)})"


def at_distance(found: Sequence[Gain], mark: float) -> dict[str, NDArray[np.float64]] | None:
    """Gains of prompts by tag at a distance of the base's times a mark, from runs of one seed; None: none is so far.

    Runs and base, sorted by distance, are points; between the two about d* = mark x base every prompt's gain is
    g_a + (d* - d_a) / (d_b - d_a) (g_b - g_a). The base has distance 1 and gains 0.
    """
    base = {tag: np.zeros_like(values) for tag, values in found[0].by_tag.items()}
    points = [(1.0, base), *((each.distance[1] / each.distance[0], each.by_tag) for each in found)]
    points.sort(key=lambda point: point[0])
    for (near, less_far), (far, farther) in pairwise(points):
        if near <= mark <= far and near < far:
            share = (mark - near) / (far - near)
            return {tag: values + share * (farther[tag] - values) for tag, values in less_far.items()}
    return None


def interval(seeds: Sequence[dict[str, NDArray[np.float64]]]) -> str:
    """Of the mean over seeds, which are drawn, and prompts within them."""
    low, high = nested_bootstrap(seeds)
    return f"{low:+.3f} … {high:+.3f}"


def by_tag_of(folder: RunFolder, metric: str = METRIC) -> dict[str, NDArray[np.float64]]:
    """Aligned less base of each prompt of a finished run, by tag."""
    base, aligned = _values(folder, metric)
    prompts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (group, item, index), value in aligned.items():
        prompts[group, item].append(value - base[group, item, index])
    found: dict[str, list[float]] = defaultdict(list)
    for (group, _), differences in prompts.items():
        found[group].append(mean(differences))
    return {group: np.array(values) for group, values in found.items()}


def _values(folder: RunFolder, metric: str) -> list[dict[tuple[str, str, int], float]]:
    """What a metric says of each image, of base and of aligned."""
    rows = [row for row in read_rows(folder.scores / f"{metric}.jsonl") if not row["control"]]
    return [
        {(row["group"], row["item"], row["index"]): row["value"] for row in rows if row["model"] == model}
        for model in MODELS
    ]
