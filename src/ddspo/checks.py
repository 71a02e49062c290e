"""Everything about a recipe that can be found wrong before any long work, and what was read to find out."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ddspo import components
from ddspo.backbones._identity import identity
from ddspo.digests import file_identity
from ddspo.errors import InputError
from ddspo.places import local
from ddspo.prompts.reading import Reading, read_prompts, sound
from ddspo.recipe import Recipe
from ddspo.references import check_references
from ddspo.rows import Row, some_rows
from ddspo.stages.degrade import nothing_left
from ddspo.stages.evaluate import Evaluation
from ddspo.stages.train import Method
from ddspo.training.drawing import check_drawing
from ddspo.training.optimisation import check_batch

LOOKED_AT = 10_000
"""Prompts that are looked at before long work, and for what a few can tell: a source may hold millions."""


class Checked(NamedTuple):
    """A recipe whose backbone is named, and what was found behind the names in it.

    Attributes:
        prompts: What the source of prompts holds.
        items: The rows of the evaluation, by split.
        identity: Digest of the model's files.
        references: Digest of the evaluation's references.
    """

    recipe: Recipe
    prompts: Row
    items: dict[str, list[Row]]
    identity: str | None = None
    references: str | None = None


def check(given: Recipe, method: Method, processes: int, degraded: Path | None) -> Checked:
    """Look at everything that a recipe names, without loading any weights.

    Args:
        given: The recipe.
        method: What it trains.
        processes: How many take part.
        degraded: The degraded prompts of a run that has them: their source is then not opened again.

    Raises:
        InputError: Anything cannot work; one line.
    """
    backbone = components.backbone_of(given.model)
    given.sample.check(backbone.check(given.model), given.model)
    _check_training(given, method, processes)
    if given.dataset:
        given.dataset.format.check(given.dataset.source)
        prompts: Row = {}
    else:
        prompts = _check_prompts(given, degraded)
    items = _check_evaluation(given.evaluate) if given.evaluate else {}
    named = replace(given, model=replace(given.model, backbone=components.name_of(backbone)))
    references = given.evaluate.references if given.evaluate else None
    seen = file_identity(local(references) or Path(references)) if references else None
    return Checked(named, prompts, items, identity(given.model), seen)


def reading(given: Recipe, at_most: int | None = None) -> Reading:
    """The prompts that pairs are made of, read as the recipe says."""
    labels = given.sample.labels
    assert given.prompts is not None  # or there is a dataset
    fault = labels.judge.check if labels else sound
    return Reading(given.prompts, whole=labels is not None, fault=fault, at_most=at_most)


def _check_training(given: Recipe, method: Method, processes: int) -> None:
    if given.pretrains:
        check_batch(given.pretrain.train, processes, "pretrain.train")
    if given.validation.every and given.validation.scored and not given.evaluate:
        raise InputError("validation.scored: the recipe has no evaluate group whose metric could judge: use 0")
    if given.validation.every and given.dataset and not given.evaluate:
        raise InputError("validation.every: with a dataset its prompts are those of evaluate: give it, or use 0")
    given.validation.check(given.train.steps)
    method.check(given.train, degraded=given.has_degraded, states=given.states > 0)


def _check_prompts(given: Recipe, degraded: Path | None) -> Row:
    """Whether they can be degraded and drawn as the recipe says; returns what their source holds."""
    found, how = reading(given, LOOKED_AT), given.degradation_used
    prompts = [row["prompt"] for row in (some_rows(degraded, LOOKED_AT) if degraded else found)]
    if how and not degraded and prompts and len(how.check(prompts)) == len(prompts):
        raise nothing_left(how, len(prompts))
    check_drawing(given.draw, given.policy_pair, prompts)
    return found.source.description()


def _check_evaluation(given: Evaluation) -> dict[str, list[Row]]:
    if given.references:
        check_references(given.references)
    return {
        "validation": read_prompts(given.validation, "evaluate.validation", given.metric.check),
        "evaluation": read_prompts(given.prompts, "evaluate.prompts", given.metric.check),
    }
