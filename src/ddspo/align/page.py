"""A plan as a file: a recipe with a comment on each choice, under a table of hours and memory."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from ddspo.align.machine import Machine
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
    notes = plan.choices.notes() | {each.partition("=")[0]: "as asked for" for each in wish.overrides}
    lines = [*_wrapped(f"{asked}: planned for {machine.title}, {duration(wish.budget)}.", "# ")]
    lines += ["#", *(f"# {line}" for line in table(plan, machine)), "#"]
    for line in plan.choices.panel.missing:
        lines += _wrapped(line, "# ")
    for name, value in tree.items():
        lines += _group(name, value, notes)
    return "\n".join(lines) + "\n"


def table(plan: Plan, machine: Machine) -> Iterator[str]:
    """Time and memory of each stage."""
    yield f"{'stage':<10}{'time':>10}{'device GiB':>14}{'main GiB':>12}"
    for stage in plan.cost.stages:
        time = duration(plan.seconds.get(stage.name, 0.0))
        yield f"{stage.name:<10}{time:>10}{stage.device_bytes / 2**30:>14.1f}{stage.host_bytes / 2**30:>12.1f}"
    rate = "as measured here" if machine.here else "at an assumed 40 TFLOP/s: `ddspo align` measures before it begins"
    yield f"{'all':<10}{duration(plan.total):>10}  {rate}"


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
