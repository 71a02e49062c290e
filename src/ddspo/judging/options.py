"""How models are compared: the options of a recipe."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen
from typing_extensions import Doc

from ddspo.errors import quoted
from ddspo.metrics.base import Measure, Metric

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
TAKEN = ("base", "aligned", "pairs")
"""Names of a run's own."""


@dataclass(frozen=True)
class Evaluation:
    """How base and aligned, and whoever else, are compared."""

    metrics: Annotated[tuple[Measure, ...], Doc("what judges the images: of each alone, or of all of a model")]
    prompts: Annotated[str, Doc("rows that the metrics read, held out from everything else; as prompts.path")]
    validation: Annotated[
        str | None, Doc("the same for choosing the guidance scale; null where there is one scale")
    ] = None
    choose: Annotated[
        str | None, Doc("the metric of `metrics` that chooses it; null: the first that judges each image alone")
    ] = None
    models: Annotated[
        dict[str, str],
        Doc("further models by name: a LoRA, a run, a pipeline, or a folder of images that were made elsewhere"),
    ] = field(default_factory=dict)
    references: Annotated[
        str | None, Doc("parquet with an `image` column, or folder: real images for the metrics that need some")
    ] = None
    scales: Annotated[
        tuple[Annotated[float, Ge(1), Le(100)], ...], MinLen(1), Doc("guidance scales tried on validation prompts")
    ] = (1.0, 2.0, 3.0, 5.0, 7.5)
    steps: Annotated[int, Gt(0), Le(1000), Doc("sampler steps")] = 25
    images: Annotated[int, Gt(0), Le(10_000), Doc("images a prompt that are judged")] = 4
    validation_images: Annotated[
        int, Gt(0), Le(10_000), Doc("images a prompt, model and scale for choosing the scale")
    ] = 4
    screening: Annotated[
        float,
        Ge(0),
        Lt(1),
        Doc("probability at most that the best scale is given up after the first of these images; 0: none is"),
    ] = 0.05
    batch: Annotated[int, Gt(0), Doc("images generated at once")] = 64
    judge_batch: Annotated[int, Gt(0), Doc("images that a judge gets at once")] = 16

    def fault(self) -> str | None:
        """What does not go together, before any file is looked at."""
        scales = [f"{scale:g}" for scale in self.scales]
        alike = next((scale for scale in scales if scales.count(scale) > 1), None)
        if alike:
            return f"evaluate.scales: several are {alike}, which is how files are named: keep one of them"
        for name in self.models:
            if not NAME.fullmatch(name) or name in TAKEN:
                own = ", ".join(TAKEN)
                return f"evaluate.models: {quoted(name)}: use letters, digits, '_', '-' and '.', and none of {own}"
        single = [metric.name for metric in self.metrics if isinstance(metric, Metric)]
        if self.choose is not None and self.choose not in single:
            named = ", ".join(single) or "none"
            return f"evaluate.choose {quoted(self.choose)}: of evaluate.metrics, {named} judges each image alone"
        if len(self.scales) > 1 and not single:
            return "evaluate.scales: no metric judges each image alone, which could choose one: give one scale"
        if len(self.scales) > 1 and self.validation is None:
            return "evaluate.validation: missing: prompts on which one of evaluate.scales is chosen; or give one scale"
        if self.references is None:
            needs = [metric.name for metric in self.metrics if metric.needs_references]
            if needs:
                return f"evaluate.references: missing: {', '.join(needs)} needs real images"
        return None

    @property
    def main(self) -> Metric | None:
        """The metric that matters most: the one that chooses, or the first that judges each image alone."""
        single = [metric for metric in self.metrics if isinstance(metric, Metric)]
        return next((metric for metric in single if metric.name == self.choose), next(iter(single), None))

    @property
    def chooser(self) -> Metric | None:
        """The metric that chooses the scale; None where there is one scale."""
        return self.main if len(self.scales) > 1 else None
