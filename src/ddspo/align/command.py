"""From the command line to a plan in a run folder: look the model up, fit it, measure it, and write its recipe."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from accelerate import PartialState

from ddspo import components
from ddspo.align.choices import LEAST_STEPS, Choices
from ddspo.align.judges import Panel, downloads, panel
from ddspo.align.machine import ASSUMED, Machine, machine_of
from ddspo.align.page import page, table
from ddspo.align.planning import Plan, fitted, recipe_of, spent
from ddspo.align.probe import PROMPTS, gap_of
from ddspo.align.rungs import EVALUATIONS, SUPERVISION, Placing, placings
from ddspo.align.wish import Wish
from ddspo.align.worlds import world_of
from ddspo.checks import LOOKED_AT, reading
from ddspo.conversion import Origin, configured, converted, is_single
from ddspo.cost.shapes import model_outline
from ddspo.cost.speed import assumed, measured
from ddspo.errors import InputError
from ddspo.files import write_json, write_text
from ddspo.randomness import stable_seed
from ddspo.recipe import Recipe, load
from ddspo.rows import Row, read_json
from ddspo.stages.degrade import nothing_left
from ddspo.training.validation import spread

PLAN, WISH, MODEL = "plan.yaml", "wish.json", "model"
"""Files of a run's folder, and the folder of a model that was converted or merged."""
Say = Callable[[str], None]


class Planned(NamedTuple):
    """A plan, and its file's text."""

    plan: Plan
    text: str


def plan_of(wish: Wish, asked: str, say: Say, *, dry: bool) -> Planned:
    """Plan without and, unless nothing is to run, with the model's weights.

    Args:
        wish: What is asked for.
        asked: The command, for the file.
        say: Tells the user a line.
        dry: Whether no weights may be loaded.

    Raises:
        InputError: There is no such model, it does not fit, or the budget is not enough.
    """
    if PartialState().num_processes > 1:
        raise InputError("ddspo align: it plans for one device: `accelerate launch -m ddspo run` takes its plan.yaml")
    machine = machine_of(wish, dry=dry)
    with _folder_of(wish, machine, dry=dry) as folder:
        found = _planned(replace(wish, model=folder), machine, asked, say, dry=dry)
    return found._replace(text=found.text.replace(folder, str(_made(wish)))) if _is_made(wish) else found


@contextmanager
def _folder_of(wish: Wish, machine: Machine, *, dry: bool) -> Iterator[str]:
    """A diffusers folder or hub id: one file, or LoRAs to merge, become a folder in the run's first.

    Without weights, if nothing is to run, in a folder that lasts as long as the block.
    """
    if not _is_made(wish):
        yield wish.model
        return
    origin = Origin(wish.model, wish.loras, wish.config)
    if dry:
        with TemporaryDirectory() as scratch:
            configured(origin, Path(scratch) / MODEL)
            yield str(Path(scratch) / MODEL)
        return
    converted(origin, _made(wish), machine.dtype)
    yield str(_made(wish))


def _is_made(wish: Wish) -> bool:
    """Whether its model has to be converted or merged first."""
    return bool(wish.loras) or is_single(wish.model)


def _made(wish: Wish) -> Path:
    """Where such a model is kept."""
    return recipe_of(_nominal(wish)).folder / MODEL


def _planned(wish: Wish, machine: Machine, asked: str, say: Say, *, dry: bool) -> Planned:
    begun = _begun(wish, machine)
    for line in begun.panel.missing:
        say(line)
    chosen = fitted(begun, machine, _ways(begun))
    plan = spent(Plan(chosen, assumed(recipe_of(chosen), ASSUMED)) if dry else _measured(chosen, say))
    return Planned(plan, page(plan, machine, asked))


class Begun(NamedTuple):
    """A recipe, and what writes its plan down once it is known that it may run."""

    recipe: Recipe
    keep: Callable[[], None]


def prepared(wish: Wish, asked: str, say: Say) -> Begun:
    """The recipe of a wish: that of its run folder, or planned anew where there is none, or of another wish.

    Raises:
        InputError: As `plan_of` says.
    """
    folder = recipe_of(_nominal(wish)).folder
    file, known = folder / PLAN, folder / WISH
    if file.is_file() and known.is_file() and read_json(known, "delete it")["wish"] == _plain(wish):
        say(f"align: goes on with {file}")
        return Begun(load(file), lambda: None)
    found = plan_of(wish, asked, say, dry=False)
    for line in table(found.plan):
        say(line)
    fetched = downloads(found.plan.choices.panel.metrics)
    if fetched:
        say(f"align: the judges' weights will be downloaded: {fetched / 1e9:.1f} GB")
    measured = {"speed": found.plan.speed._asdict(), "gap": found.plan.choices.gap}

    def keep() -> None:
        write_text(file, found.text)
        write_json(known, {"wish": _plain(wish)} | measured)

    return Begun(found.plan.recipe, keep)


def _begun(wish: Wish, machine: Machine) -> Choices:
    """What can be chosen before the model is fitted."""
    model = recipe_of(_nominal(wish)).model
    backbone = model_outline(model)
    world = world_of(wish, SUPERVISION[-1], EVALUATIONS[-1])
    return replace(
        _nominal(wish),
        usual=backbone.usual,
        guided=backbone.evaluations(LEAST_STEPS, backbone.usual[1]) > backbone.evaluations(LEAST_STEPS, 1.0),
        dtype=machine.dtype,
        side=backbone.call["height"],
        panel=panel(world.judges, world.guards),
    )


def _nominal(wish: Wish) -> Choices:
    """Choices of which nothing is known yet but what was asked for."""
    least = SUPERVISION[-1], EVALUATIONS[-1]
    nobody = Panel([*world_of(wish, *least).guards], None, ())
    return Choices(wish, (1, 1.0), True, "fp32", 0, nobody, Placing(), 1, 1, *least)


def _ways(choices: Choices) -> list[Placing]:
    kind = components.backbone_of(recipe_of(choices).model)
    return placings(transformer=kind.denoiser_name == "transformer", smaller=kind.draws_smaller)


def _measured(choices: Choices, say: Say) -> Plan:
    """With the speed of the machine and the gap of the model."""
    given = recipe_of(choices)
    say(f"align: loads {given.model.path}, and measures it")
    began = time.monotonic()
    backbone = components.backbone_of(given.model).load(given.model).to(PartialState().device)
    speed = measured(given, backbone, load=time.monotonic() - began)
    gap = gap_of(backbone, _degraded(given), given)
    say(f"align: the gap between prompts and degraded prompts is {gap:.2g}")
    if not 0 < gap < math.inf:
        raise InputError(
            f"{choices.wish.model}: predictions with and without some words differ by {gap}: nothing can be learned "
            "from that: try model.dtype=fp32, or other --prompts"
        )
    return Plan(replace(choices, gap=gap), speed)


def _degraded(given: Recipe) -> list[Row]:
    """Some prompts with their variants, spread over the first of them."""
    rows = list(reading(given, LOOKED_AT))
    seeds = [stable_seed(given.seed, row["id"], "gap") for row in rows]
    every = zip(rows, seeds, given.degradation.of_rows(rows, seeds), strict=True)
    found = [row | {"seed": seed, "degraded": variants[0].text} for row, seed, variants in every if variants]
    if not found:
        raise nothing_left(given.degradation, len(rows), rows[0]["prompt"])
    return spread(found, PROMPTS)


def _plain(wish: Wish) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(wish).items()}
