"""How a report says its numbers, on the page, in the terminal and on a model card."""

from collections.abc import Sequence
from math import floor, log10
from typing import Literal

from ddspo.rows import Row
from ddspo.run_folder import MODELS

Verdict = Literal["better", "worse", ""]
USUAL, MOST = 3, 6
"""Decimals of a score."""


def trained(models: Sequence[str]) -> str | None:
    """Of the models that are compared with the first the one that was trained, or else the first of them."""
    others = models[1:]
    return MODELS[1] if MODELS[1] in others else next(iter(others), None)


def decimals(metric: Row) -> int:
    """Of a metric's scores: three, but fewer from a hundred on, and more for a narrow interval."""
    rows = list(metric["models"].values())
    largest = max(abs(row["score"]) for row in rows)
    shown = max(0, USUAL - max(0, floor(log10(largest)) - 1)) if largest >= 1 else USUAL
    widths = [high - low for low, high in (row["interval"] for row in rows if "interval" in row) if high > low]
    return min(max(shown, 1 - floor(log10(min(widths) / 2))), MOST) if widths else shown


def figure(value: float) -> str:
    """A number that nothing is known about but itself, with four digits."""
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:.0f}"


def verdict(row: Row, higher_is_better: bool) -> Verdict:
    """Whether an interval shows that a model is better or worse than the first, or neither."""
    low, high = row["interval"]
    if low > 0:
        return "better" if higher_is_better else "worse"
    return ("worse" if higher_is_better else "better") if high < 0 else ""


def sentence(row: Row, metric: Row, model: str, first: str) -> str:
    """The verdict in words."""
    found = verdict(row, metric["higher_is_better"])
    if not found:
        return "The interval contains zero: these images do not show that the models differ."
    where = "above" if row["interval"][0] > 0 else "below"
    lower = "" if metric["higher_is_better"] else ", of which less is better"
    return f"The interval lies {where} zero: by {metric['title']}{lower}, {model} is {found} than {first}."


def change(row: Row, digits: int) -> str:
    """A difference with its interval."""
    return f"{row['difference']:+.{digits}f}, {interval(row['interval'], digits)}"


def interval(bounds: Sequence[float], digits: int) -> str:
    """An interval of differences."""
    low, high = bounds
    return f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}"


def percent(share: float) -> str:
    """A share in whole percent, but for what would be rounded to all or nothing."""
    shown = 100 * share
    return f"{shown:.1f} %" if 0 < shown < 1 or 99 < shown < 100 else f"{shown:.0f} %"


def relative(value: float, first: float) -> str | None:
    """A change in percent of the first; None where that is 0."""
    return f"{100 * (value - first) / abs(first):+.1f} %" if first else None
