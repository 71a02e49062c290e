"""Who judges: those whose weights are here or can be fetched, and what is missing of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddspo import components
from ddspo.errors import InputError
from ddspo.metrics.base import Measure, Metric

PHOTOGRAPHS: tuple[Any, ...] = ({"geneval": {"detector": "mask2former"}}, "pick_score", "clip_score")
"""Of photographs: whether everything is there that the prompt says, what people pick, and CLIP's opinion."""
ON_THE_WAY = ("clip_score", "pick_score")
"""Of these the first scores the policy while it is trained: it tells a little better from a little worse."""


@dataclass(frozen=True)
class Panel:
    """The judges of an evaluation.

    Attributes:
        metrics: As a recipe lists them.
        scorer: Who scores on the way; None: nobody can.
        missing: Why others are not asked, a line each.
    """

    metrics: list[Any]
    scorer: Any
    missing: tuple[str, ...]


def panel(wanted: Sequence[Any], guards: Sequence[Any]) -> Panel:
    """The judges that can be had, and measures that need no weights.

    Args:
        wanted: Judges, the most important first.
        guards: What shows that images are spoilt.
    """
    kept, missing = [], []
    for each in wanted:
        fault = _fault(_built(each))
        if fault:
            missing.append(fault)
        else:
            kept.append(each)
    names = {_built(each).name: each for each in kept}
    scorer = next((names[name] for name in ON_THE_WAY if name in names), next(iter(kept), None))
    return Panel([*kept, *guards], scorer, tuple(missing))


def downloads(metrics: Sequence[Any]) -> float:
    """Bytes of weights that some judges will fetch."""
    weights = {each for metric in metrics for each in _built(metric).weights}
    return sum(each.size for each in weights if not each.is_here)


def is_single(metric: Any) -> bool:
    """Whether it judges each image alone."""
    return isinstance(_built(metric), Metric)


def _built(metric: Any) -> Measure:
    found = components.construct(Measure, metric, "evaluate.metrics")
    assert isinstance(found, Measure)
    return found


def _fault(metric: Measure) -> str | None:
    """Why its weights cannot be had."""
    try:
        for each in metric.weights:
            each.check()
    except InputError as error:
        return f"{metric.name} does not judge: {error}"
    return None
