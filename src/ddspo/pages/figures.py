"""The report's pictures: curves as inline SVG that follows the page's colours, images as data URIs."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from ddspo.images import Unreadable, read_image

Columns = Mapping[str, NDArray[np.float64]]
Draw = Callable[[Axes, Columns], None]

INK, BASE, ALIGNED = "#010203", "#7c828d", "#2f6fde"
MODELS = (BASE, ALIGNED, "#010213", "#010223", "#010233", "#010243")
"""Stand for the colours of the models in _look.css, which also tell apart by how light they are."""
THEMED = {INK: "currentColor"} | {colour: f"var(--model-{place})" for place, colour in enumerate(MODELS)}
MARKS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"))
"""Of each model, in a plot and in text."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and the browser's own font
    "svg.hashsalt": "ddspo",  # the same run gives the same bytes
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": BASE,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
POINTS = 200
SMALL = 64


class Panel(NamedTuple):
    """One training curve and what it says."""

    title: str
    meaning: str
    svg: Markup


class Picture(NamedTuple):
    """An image as a data URI; the pixels of a small one are to be shown as they are."""

    uri: str
    small: bool


def guidance(models: Sequence[str], curves: Mapping[str, Mapping[str, float]], scales: Mapping[str, Any]) -> Markup:
    """Validation score against guidance scale, with a ring around the chosen scales; the page names the models."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="guidance scale", ylabel="score on validation prompts")
        for place, model in enumerate(models):
            points = {float(scale): score for scale, score in curves.get(model, {}).items()}
            look: dict[str, Any] = {"color": MODELS[place % len(MODELS)], "marker": MARKS[place % len(MARKS)][0]}
            axes.plot(list(points), list(points.values()), markersize=5, **look)
            if scales.get(model) in points:
                ring = look | {"marker": "o", "fillstyle": "none"}
                axes.plot(scales[model], points[scales[model]], markersize=12, **ring)
        _ticks(axes, sorted({float(scale) for each in curves.values() for scale in each}))
        return _svg(figure)


def _ticks(axes: Axes, tried: Sequence[float]) -> None:
    """A tick at each scale that was tried, and a number where it has room beside the one before."""
    room, numbers, last = (tried[-1] - tried[0]) / 16, [], -np.inf
    for scale in tried:
        numbers.append(f"{scale:g}" if scale - last >= room else "")
        last = scale if numbers[-1] else last
    axes.set_xticks(tried, numbers)


def training(log: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """A panel for each health metric that the whole log has."""
    return _panels(log, PANELS)


def pretraining(log: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The same for the log of winner and loser."""
    return _panels(log, PRETRAINING)


def embed(path: Path, side: int) -> Picture | None:
    """An image up to 64 pixels a side as it is, a larger one at most `side`; None where there is none to be read."""
    try:
        copy = Image.fromarray(read_image(path))
    except Unreadable:  # a page without one picture says so, and is better than no page
        return None
    small = max(copy.size) <= SMALL
    copy.thumbnail((side, side))
    buffer = io.BytesIO()
    copy.save(buffer, format="PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", small)


def _columns(log: Sequence[Mapping[str, Any]]) -> Columns:
    """Log columns, each point the mean of equally many updates, so that a long run does not make a heavy page."""
    names = set.intersection(*(set(row) for row in log))
    parts = min(len(log), POINTS)
    return {
        name: np.array([part.mean() for part in np.array_split(np.array([row[name] for row in log], float), parts)])
        for name in names
    }


def _panels(log: Sequence[Mapping[str, Any]], panels: Sequence[tuple[str, str, Draw, tuple[str, ...]]]) -> list[Panel]:
    columns = _columns(log)
    return [
        Panel(title, meaning, _panel(draw, columns))
        for title, meaning, draw, names in panels
        if {"step", *names} <= columns.keys()
    ]


def _panel(draw: Draw, columns: Columns) -> Markup:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        axes = figure.add_subplot(xlabel="update")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        draw(axes, columns)
        return _svg(figure)


def _legend(axes: Axes) -> None:
    """Above the curves, where it can hide none."""
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), borderaxespad=0)


def _loss(axes: Axes, log: Columns) -> None:
    axes.plot(log["step"], log["loss"], color=ALIGNED)


def _margin(axes: Axes, log: Columns) -> None:
    mean, std = log["u_mean"], log["u_std"]
    axes.fill_between(log["step"], mean - std, mean + std, color=ALIGNED, alpha=0.2, linewidth=0)
    axes.plot(log["step"], mean, color=ALIGNED)
    axes.axhline(0, color=BASE, linewidth=0.8)


def _accuracy(axes: Axes, log: Columns) -> None:
    axes.plot(log["step"], log["accuracy"], color=ALIGNED)
    axes.axhline(0.5, color=BASE, linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)


def _displacement(axes: Axes, log: Columns) -> None:
    """On a logarithmic axis, linear near zero, where every run begins."""
    axes.plot(log["step"], log["gap"], "--", color=BASE, label="gap")
    axes.plot(log["step"], log["win_displacement"], ":", color=ALIGNED, label="winner")
    axes.plot(log["step"], log["lose_displacement"], color=ALIGNED, label="loser")
    axes.set_yscale("symlog", linthresh=max(float(np.nanmean(log["gap"])) / 100, 1e-12))
    few: Any = axes.yaxis.get_major_locator()
    few.set_params(numticks=5)
    _legend(axes)


def _cosine(axes: Axes, log: Columns) -> None:
    axes.plot(log["step"], log["cosine"], color=ALIGNED)
    axes.axhline(0, color=BASE, linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)


def _gradient(axes: Axes, log: Columns) -> None:
    axes.plot(log["step"], log["grad_norm"], color=ALIGNED)


def _both(axes: Axes, log: Columns, suffix: str) -> None:
    axes.plot(log["step"], log[f"winner_{suffix}"], color=ALIGNED, label="winner")
    axes.plot(log["step"], log[f"loser_{suffix}"], "--", color=BASE, label="loser")
    _legend(axes)


PANELS: tuple[tuple[str, str, Draw, tuple[str, ...]], ...] = (
    ("loss", "What is descended; a logistic loss starts at log 2 = 0.693.", _loss, ("loss",)),
    (
        "u",
        "Margin of the implicit rewards, winner over loser: mean ± standard deviation over the batch.",
        _margin,
        ("u_mean", "u_std"),
    ),
    (
        "implicit accuracy",
        "Share of pairs with u > 0, ties counting half; 0.5 is chance.",
        _accuracy,
        ("accuracy",),
    ),
    (
        "displacement",
        "Mean square by which predictions moved from the reference; the gap is the loser target's own.",
        _displacement,
        ("gap", "win_displacement", "lose_displacement"),
    ),
    (
        "cosine",
        "Between the loser's displacement and the way from its target to the reference; with degraded prompts that is "
        "the guidance direction.",
        _cosine,
        ("cosine",),
    ),
    ("gradient norm", "Before clipping.", _gradient, ("grad_norm",)),
)


PRETRAINING: tuple[tuple[str, str, Draw, tuple[str, ...]], ...] = (
    (
        "denoising loss",
        "Mean square error of winner and loser, each on its own side of the pairs.",
        partial(_both, suffix="loss"),
        ("winner_loss", "loser_loss"),
    ),
    (
        "gradient norms",
        "Before clipping, each on its own.",
        partial(_both, suffix="grad_norm"),
        ("winner_grad_norm", "loser_grad_norm"),
    ),
)


def _svg(figure: Figure) -> Markup:
    """Safe to mark as such: the text is this file's, the rest numbers."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    for colour, theme in THEMED.items():
        text = text.replace(colour, theme)
    return Markup(text[text.index("<svg") :])
