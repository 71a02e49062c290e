"""The report's figures as inline SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASE, ALIGNED, GREY = "#8a8f98", "#2f6fde", "#b9bdc4"


def guidance(curves: Mapping[str, Mapping[str, float]]) -> Markup:
    """Score against guidance scale, base and aligned."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for model, colour in (("base", BASE), ("aligned", ALIGNED)):
        points = [(float(scale), score) for scale, score in curves.get(model, {}).items()]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=model)
    axes.set_xlabel("guidance scale")
    axes.set_ylabel("score on validation prompts")
    axes.legend(frameon=False)
    return _svg(figure)


def training(log: Sequence[Mapping[str, Any]]) -> Markup:
    """Loss, u, implicit accuracy, displacement norms and the cosine with the guidance direction."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = np.ravel(figure.subplots(2, 3))
    columns = {name: np.array([row[name] for row in log], dtype=float) for name in log[0]}
    steps = columns["step"]
    _line(grid[0], steps, columns["loss"], "loss")
    _line(grid[1], steps, columns["u_mean"], "u (mean ± sd)")
    grid[1].fill_between(
        steps, columns["u_mean"] - columns["u_std"], columns["u_mean"] + columns["u_std"], color=ALIGNED, alpha=0.2
    )
    _line(grid[2], steps, columns["accuracy"], "implicit accuracy")
    for name, colour, label in (
        ("win_displacement", BASE, "winner"),
        ("lose_displacement", ALIGNED, "loser"),
        ("gap", GREY, "target gap"),
    ):
        grid[3].plot(steps, columns[name], color=colour, label=label)
    grid[3].set_yscale("symlog", linthresh=max(float(columns["gap"].mean()) / 100, 1e-12))
    grid[3].set_title("squared displacement", fontsize=10)
    grid[3].legend(frameon=False, fontsize=8)
    _line(grid[4], steps, columns["cosine"], "cos(loser displacement, guidance)")
    _line(grid[5], steps, columns["grad_norm"], "gradient norm")
    for axes in grid[3:]:
        axes.set_xlabel("update")
    return _svg(figure)


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, title: str) -> None:
    axes.plot(x, y, color=ALIGNED)
    axes.set_title(title, fontsize=10)


def _svg(figure: Figure) -> Markup:
    """Drawn without pyplot, so that no global state is left behind; transparent, to suit light and dark pages."""
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GREY, alpha=0.3)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
