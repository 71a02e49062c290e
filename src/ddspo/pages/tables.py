"""The report's tables: what every metric says of every model, as the template writes it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddspo.pages import figures
from ddspo.pages.words import Verdict, decimals, figure, percent, relative, verdict
from ddspo.rows import Row


class Key(NamedTuple):
    """How a model is told from the others: a name, a colour and a mark."""

    name: str
    colour: int
    mark: str


class Whisker(NamedTuple):
    """A difference and its interval, in percent of a line that reaches over zero and all intervals of a metric."""

    zero: float
    left: float
    width: float
    middle: float


class Line(NamedTuple):
    """What a metric says of one model; the first has no difference."""

    key: Key
    score: str
    control: str | None
    difference: str
    interval: str
    verdict: Verdict
    whisker: Whisker | None
    won: str
    won_interval: str


class SetLine(NamedTuple):
    """What a metric says of the images of one model as a whole."""

    key: Key
    value: str
    change: str
    more: list[tuple[str, str]]


class Block(NamedTuple):
    """A metric, described, with a line for each model."""

    metric: Row
    lines: Sequence[Line | SetLine]


class Bar(NamedTuple):
    """A model's score of one tag, in percent of a line."""

    key: Key
    score: str
    change: str
    verdict: Verdict
    end: float


class Tags(NamedTuple):
    """A metric's scores by tag, all on one line from `low` to `high`; from zero they are bars, else points."""

    metric: Row
    rows: list[tuple[str, list[Bar]]]
    low: str
    high: str
    bars: bool


def keys(models: Sequence[str]) -> dict[str, Key]:
    """Colours and marks come round again after the sixth model."""
    count = len(figures.MODELS)
    return {model: Key(model, place % count, figures.MARKS[place % count][1]) for place, model in enumerate(models)}


def metrics(result: Row) -> list[Block]:
    """The table of all metrics that score image by image."""
    known = keys(result["models"])
    return [Block(metric, _lines(metric, known)) for metric in result["metrics"].values()]


def _lines(metric: Row, known: Mapping[str, Key]) -> list[Line]:
    digits = decimals(metric)
    bounds = [0.0, *(bound for row in metric["models"].values() for bound in row.get("interval", ()))]
    ends = min(bounds), max(bounds)
    return [_line(known[model], row, metric, digits, ends) for model, row in metric["models"].items()]


def _line(key: Key, row: Row, metric: Row, digits: int, ends: tuple[float, float]) -> Line:
    score, control = f"{row['score']:.{digits}f}", row["control"]
    floor = None if control is None else f"{control:.{digits}f}"
    if "interval" not in row:
        return Line(key, score, floor, "", "", "", None, "", "")
    low, high = row["interval"]
    return Line(
        key,
        score,
        floor,
        f"{row['difference']:+.{digits}f}",
        f"{low:+.{digits}f} to {high:+.{digits}f}",
        verdict(row, metric["higher_is_better"]),
        _whisker(row["difference"], low, high, ends),
        percent(row["won"]),
        " to ".join(percent(bound).removesuffix(" %") for bound in row["won_interval"]) + " %",
    )


def _whisker(difference: float, low: float, high: float, ends: tuple[float, float]) -> Whisker:
    start, span = ends[0], (ends[1] - ends[0]) or 1.0
    zero, left, right, middle = (100 * (value - start) / span for value in (0, low, high, difference))
    return Whisker(zero, left, right - left, min(max(middle, 0), 100))


def sets(result: Row) -> list[Block]:
    """The table of all metrics that measure images as a set."""
    known = keys(result["models"])
    return [Block(measured, _set_lines(measured["models"], known)) for measured in result["sets"].values()]


def _set_lines(rows: Mapping[str, Row], known: Mapping[str, Key]) -> list[SetLine]:
    first = next(iter(rows.values()))["value"]
    lines = []
    for place, (model, row) in enumerate(rows.items()):
        change = (relative(row["value"], first) or "–") if place else ""
        more = [(name, f"{value:.4g}") for name, value in row["more"].items()]
        lines.append(SetLine(known[model], figure(row["value"]), change, more))
    return lines


def tags(result: Row, verdicts: Mapping[str, bool]) -> list[Tags]:
    """The scores by tag of each metric that has more than one tag.

    Args:
        result: report.json.
        verdicts: Whether all values of a metric are 0 or 1.
    """
    known = keys(result["models"])
    found = ((metric, by_tag(metric), verdicts[name]) for name, metric in result["metrics"].items())
    return [_tags(metric, rows, known, is_share) for metric, rows, is_share in found if len(rows) > 1]


def by_tag(metric: Row) -> dict[str, dict[str, float]]:
    """{tag: {model: score}}."""
    rows: dict[str, dict[str, float]] = {}
    for model, row in metric["models"].items():
        for tag, score in row["by_tag"].items():
            rows.setdefault(tag, {})[model] = score
    return rows


def _tags(metric: Row, rows: Mapping[str, Mapping[str, float]], known: Mapping[str, Key], is_share: bool) -> Tags:
    """Shares are bars from 0 to 1; what has no zero to begin at, or lies far from it, is points from least to most."""
    digits, scores = decimals(metric), [score for row in rows.values() for score in row.values()]
    low, high = (0.0, 1.0) if is_share else (min(scores), max(scores))
    bars = is_share or 0 <= low < high / 2
    low = 0.0 if bars else low
    span = (high - low) or 1.0
    first = next(iter(metric["models"]))
    found = []
    for tag, row in rows.items():
        lines = []
        for model, score in row.items():
            change = score - row[first] if first in row and model != first else None
            moved = "" if change is None else f"{change:+.{digits}f}"
            end = 100 * (score - low) / span
            lines.append(Bar(known[model], f"{score:.{digits}f}", moved, _side(change, metric), end))
        found.append((tag, lines))
    return Tags(metric, found, f"{low:.{digits}f}", f"{high:.{digits}f}", bars)


def _side(change: float | None, metric: Row) -> Verdict:
    if not change:
        return ""
    return "better" if (change > 0) == metric["higher_is_better"] else "worse"


def without_guidance(result: Row) -> list[tuple[Key, dict[str, Any]]]:
    """{score, difference?, interval?} of each model on validation prompts at guidance scale 1, as far as measured."""
    metric = result["metrics"].get(result["choose"])
    if not metric:
        return []
    return [
        (key, {"score": metric["curve"][model]["1"]} | metric["by_scale"].get(model, {}).get("1", {}))
        for model, key in keys(result["models"]).items()
        if "1" in metric["curve"].get(model, {})
    ]
