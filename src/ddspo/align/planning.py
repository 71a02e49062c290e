"""From a wish to a recipe: how the model fits the device, and how much of the budget goes into what."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ddspo import recipe
from ddspo.align.choices import Choices
from ddspo.align.machine import Machine
from ddspo.align.rungs import AT_ONCE, DRAWN_AT_ONCE, EVALUATIONS, SUPERVISION, Placing
from ddspo.cost.speed import Speed, seconds
from ddspo.cost.total import Cost, cost
from ddspo.errors import InputError
from ddspo.progress import duration
from ddspo.recipe import Recipe

LOOKING = 0.4
"""Share of the budget that the evaluation may take."""
EVALUATING = ("images", "judge")


@dataclass(frozen=True)
class Plan:
    """Choices, and what they come to.

    Attributes:
        choices: What was chosen.
        speed: How fast the machine is.
    """

    choices: Choices
    speed: Speed

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The recipe as plain data, with what was asked for by hand."""
        tree = self.choices.tree()
        for each in self.choices.wish.overrides:
            recipe.override(tree, each)
        return tree

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe."""
        return recipe_of(self.choices)

    @cached_property
    def cost(self) -> Cost:
        """What it takes."""
        return cost(self.recipe)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Of each stage."""
        return seconds(self.cost, self.speed)

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    @property
    def looking(self) -> float:
        """Of the evaluation."""
        return sum(self.seconds.get(name, 0.0) for name in EVALUATING)


def recipe_of(choices: Choices) -> Recipe:
    """The recipe of some choices.

    Raises:
        InputError: An override is wrong.
    """
    return recipe.build(choices.tree(), choices.wish.overrides, "ddspo align")


def fitted(choices: Choices, machine: Machine, ways: Iterable[Placing]) -> Choices:
    """The first way to hold the model that fits, with as much at once as does.

    Raises:
        InputError: None does; says what the last one lacks.
    """
    fault: str | None = None
    for placing in ways:
        chosen = replace(choices, placing=placing, device_batch=1, drawn=1)
        fault = _fault(chosen, machine)
        if fault is None:
            batch = recipe_of(chosen).train.batch  # which may be asked for
            chosen = _largest([replace(chosen, device_batch=each) for each in AT_ONCE if batch % each == 0], machine)
            return _largest([replace(chosen, drawn=drawn) for drawn in DRAWN_AT_ONCE], machine)
    raise InputError(
        f"{choices.wish.model}: does not fit {machine.title}, also quantised, with its activations computed again and "
        f"blocks in main memory: {fault}: give a card that has more, or another model"
    )


def spent(plan: Plan) -> Plan:
    """The same with as much evaluation as a share of the budget pays for, and as much supervision as the rest.

    Raises:
        InputError: The budget is not enough for the least of both; says which would be.
    """
    budget = plan.choices.wish.budget
    for number, looked in enumerate(EVALUATIONS):
        least = _with(plan, evaluation=looked, supervision=SUPERVISION[-1])
        if number + 1 < len(EVALUATIONS) and (least.looking > LOOKING * budget or least.total > budget):
            continue
        for given in SUPERVISION:
            found = _with(plan, evaluation=looked, supervision=given)
            if found.total <= budget:
                return found
    parts = ", ".join(f"{name} {duration(value)}" for name, value in least.seconds.items() if value >= 1)
    rung = SUPERVISION[-1]
    raise InputError(
        f"--budget {duration(budget)}: {rung.pairs} pairs and {rung.updates} updates, below which nothing was gained "
        f"on the miniature, take {duration(least.total)} here ({parts}): give --budget {_rounded(least.total)}"
    )


def _with(plan: Plan, **changes: Any) -> Plan:
    return Plan(replace(plan.choices, **changes), plan.speed)


def _largest(rising: list[Choices], machine: Machine) -> Choices:
    """The last of some choices, each of which needs more than the one before, that fits; the first is known to."""
    found = rising[0]
    for each in rising[1:]:
        if _fault(each, machine):
            break
        found = each
    return found


def _fault(choices: Choices, machine: Machine) -> str | None:
    """Why some stage does not fit."""
    for stage in cost(recipe_of(choices)).stages:
        fault = machine.fault(stage.device_bytes, stage.host_bytes)
        if fault:
            return f"{stage.name} needs {fault}"
    return None


def _rounded(seconds: float) -> str:
    """A budget above so many seconds, as one types it."""
    minutes = int(seconds * 1.1 // 60) + 1
    return f"{minutes}m" if minutes < 120 else f"{-(-minutes // 30) / 2:g}h"
