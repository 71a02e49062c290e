"""A plan as a file: a recipe with a comment on each choice, under a table of hours and memory."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from ddspo.align.machine import ASSUMED, Machine
from ddspo.align.planning import Plan
from ddspo.progress import duration

WIDTH = 110


def page(plan: Plan, machine: Machine, asked: str) -> str:
    """The file: `ddspo run` repeats it.

    Args:
        plan: What was planned.
        machine: What it was planned for.
        asked: The command.
    """
    wish, tree = plan.choices.wish, plan.tree
    asked_for = dict.fromkeys((each.partition("=")[0] for each in wish.overrides), "as asked for")
    notes = {key: note for key, note in plan.choices.notes().items() if _has(tree, key)} | asked_for
    lines = [*_wrapped(f"{asked}: planned for {machine.title}, {duration(wish.budget)}.", "# ")]
    lines += ["#", *(f"# {line}" for line in table(plan)), "#"]
    for line in plan.choices.panel.missing:
        lines += _wrapped(line, "# ")
    for name, value in tree.items():
        lines += _group(name, value, notes)
    return "\n".join(lines) + "\n"


def table(plan: Plan) -> Iterator[str]:
    """Time and memory of each stage."""
    yield f"{'stage':<10}{'time':>10}{'device GiB':>14}{'main GiB':>12}"
    for stage in plan.cost.stages:
        time = duration(plan.seconds.get(stage.name, 0.0))
        yield f"{stage.name:<10}{time:>10}{stage.device_bytes / 2**30:>14.1f}{stage.host_bytes / 2**30:>12.1f}"
    assumed = f"at an assumed {ASSUMED / 1e12:g} TFLOP/s: `ddspo align` measures before it begins"
    rate = assumed if plan.choices.gap is None else "as measured here"
    yield f"{'all':<10}{duration(plan.total):>10}  {rate}"


def _has(tree: Any, key: str) -> bool:
    """Whether a recipe has a dotted key, also where whole groups of it were asked for."""
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _group(name: str, value: Any, notes: dict[str, str]) -> Iterator[str]:
    """One key of the recipe under what is said of it."""
    for key, note in notes.items():
        first, _, rest = key.partition(".")
        if first == name:
            yield from _wrapped(f"{rest or name}: {note}", "# ")
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=WIDTH).removesuffix("...\n").rstrip()
    block = isinstance(value, dict | list) and text[0] not in "{["
    yield f"{name}:\n{textwrap.indent(text, '  ')}" if block else f"{name}: {text}"


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=f"{start}  ", break_long_words=False)
