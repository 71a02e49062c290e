"""All metrics judge all galleries, one judge in memory at a time, and what they say is compared.

A metric that reads the prompt also judges one image of each prompt against another prompt's row: where that control
scores as high, the metric does not see what was asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ddspo.judging.compare import compared, curves, described
from ddspo.judging.control import controls
from ddspo.judging.judging import Judging, References, Set
from ddspo.judging.pictures import Picture
from ddspo.metrics.base import Measure, Metric, Score, SetMetric, tag_of
from ddspo.rows import Row

EVALUATION, VALIDATION = "evaluation", "validation"

Galleries = Mapping[str, Sequence[Picture]]
"""Pictures by model; the first is what the others are compared with."""
Keep = Callable[[str, Sequence[Row]], object]
"""Takes the rows of a metric, by its name, as soon as it has judged."""


@dataclass(frozen=True)
class Asked:
    """Pictures of one model, and what their scores are for."""

    model: str
    split: str
    pictures: Sequence[Picture]
    control: bool = False


@dataclass(frozen=True)
class Panel:
    """Metrics that judge together.

    Attributes:
        references: Real images, for the metrics that need some.
        keep: Called on every process.
    """

    metrics: Sequence[Measure]
    references: References | None
    judging: Judging
    keep: Keep

    def judge(self, galleries: Galleries, tried: Galleries, choose: str | None = None) -> Row:
        """What the metrics found: {metrics, sets}; figures of sets are known to the first process alone.

        Args:
            galleries: What is compared.
            tried: Images of validation prompts at several guidance scales, by model.
            choose: Name of the metric that judges these too.

        Raises:
            InputError: A file is no image, or weights cannot be had.
        """
        found: Row = {"metrics": {}, "sets": {}}
        sets = {model: Set(pictures) for model, pictures in galleries.items()}
        for metric in self.metrics:
            if isinstance(metric, Metric):
                asked = _asked(metric, galleries) + _tried(tried if metric.name == choose else {})
                found["metrics"][metric.name] = self._each(metric, [*galleries], asked)
            elif isinstance(metric, SetMetric):
                figures = self.judging.figures(metric, sets, self.references)
                models = {model: _figure(figures[model]) for model in figures}
                found["sets"][metric.name] = described(metric) | {"models": models}
        return found

    def _each(self, metric: Metric, models: Sequence[str], asked: Sequence[Asked]) -> Row:
        """All scores of a metric of single images, kept as rows, and compared."""
        scores = iter(self.judging.scores(metric, [each for part in asked for each in part.pictures]))
        rows = [_row(metric, part, each, next(scores)) for part in asked for each in part.pictures]
        self.keep(metric.name, rows)
        judged, tried = ([row for row in rows if row["split"] == split] for split in (EVALUATION, VALIDATION))
        found = compared(models, judged, higher_is_better=metric.higher_is_better)
        return described(metric) | found | curves(models, tried)


def _asked(metric: Metric, galleries: Galleries) -> list[Asked]:
    asked = [Asked(model, EVALUATION, pictures) for model, pictures in galleries.items()]
    floor = galleries.items() if metric.reads_prompt else ()
    return asked + [Asked(model, EVALUATION, controls(pictures), control=True) for model, pictures in floor]


def _tried(tried: Galleries) -> list[Asked]:
    return [Asked(model, VALIDATION, pictures) for model, pictures in tried.items()]


def _row(metric: Metric, asked: Asked, picture: Picture, score: Score) -> Row:
    row = picture.row
    return {
        "model": asked.model,
        "split": asked.split,
        "control": asked.control,
        "scale": row.get("scale"),
        "item": picture.item,
        "index": picture.index,
        "image": str(picture.path),
        "tag": tag_of(row),
        "group": metric.group(row),
        "prompt": row["prompt"],
        **score._asdict(),
    }


def _figure(figures: Mapping[str, float]) -> Row:
    """The first figure of a set, which the metric is named after, and the others."""
    (_, value), *more = figures.items()
    return {"value": value, "more": dict(more)}
