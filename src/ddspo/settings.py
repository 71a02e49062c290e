"""What each stage's result depends on, beyond the files of earlier stages: what the manifest keeps."""

import hashlib
import json
from typing import Any

from ddspo import components
from ddspo.degradations.base import Degradation
from ddspo.recipe import Recipe
from ddspo.rows import Row

MECHANICAL = ("device_batch", "checkpoint_every", "keep", "guards")
"""Training options that change memory, disk or when it stops, but not the result: a run may go on with others."""


def settings_of(stage: str, recipe: Recipe, prompts: Row, items: dict[str, list[Row]]) -> Row:
    """The settings of one stage, as plain data.

    Args:
        stage: Its name.
        recipe: The recipe.
        prompts: What the prompts' source holds.
        items: The rows of the evaluation.
    """
    tree = components.plain(recipe)
    for group in (tree, tree["pretrain"]):
        group["train"] = {key: value for key, value in group["train"].items() if key not in MECHANICAL}
    tree["evaluated"] = recipe.evaluate is not None
    tree["degradation"] = recipe.degradation_used and _lasting(recipe.degradation_used)
    tree["prompts"] = prompts
    tree["items"] = _digest(items)
    method = ("policy_pair", "reference", "objective", "adaptation", "draw", "on_policy")
    keys = {
        "degrade": ("seed", "prompts", "degradation"),
        "sample": ("seed", "model", "sample", "dataset"),
        "import": ("model", "dataset"),
        "pretrain": ("seed", "model", "pretrain"),
        "train": ("seed", "model", *method, "train"),
        "evaluate": ("seed", "model", "evaluate", "items"),
        "report": ("name", "evaluated"),
    }
    if recipe.validation.save == "best":
        keys["train"] += ("validation", "items")
    return {key: tree[key] for key in keys[stage]}


def _lasting(degradation: Degradation) -> Row:
    """Its options, without those that change nothing in what comes out."""
    ((name, options),) = components.plain(degradation).items()
    return {name: {key: value for key, value in options.items() if key not in degradation.mechanical}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
