"""What each stage's result depends on, beyond the files of earlier stages: what the manifest keeps."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ddspo import components
from ddspo.checks import Checked
from ddspo.degradations.base import Degradation
from ddspo.metrics.base import Metric
from ddspo.recipe import Recipe
from ddspo.rows import Row, differences

_TRAINING = (
    *("device_batch", "gradient_checkpointing", "compile", "checkpoint_every", "keep"),
    *("guards", "encode", "window", "parallel", "shards"),
)
MECHANICAL: dict[str, tuple[str, ...]] = {
    "model": ("hub_id", "offload"),
    "sample": ("batch",),
    "dataset": ("batch",),
    "train": _TRAINING,
    "evaluate": ("batch", "judge_batch"),
    "validation": ("batch", "final", "prompts"),
}
"""Options that change memory, disk, names or when it stops, but not the result: a run may go on with others.

Where pairs do not fit into `train.window` another window means another order from then on, and nothing else.
"""
IDENTITY, REFERENCES, CONTESTANTS = "files of model.path", "files of evaluate.references", "files of evaluate.models"
ITEMS = "rows of evaluate.prompts or evaluate.validation"
"""What was read, in words: a message may name it as changed."""
JUDGING = ("metrics", "choose", "references", "models", *MECHANICAL["evaluate"])
"""Of an evaluation, what no image depends on, or what is known by its files."""
CHOOSER = "evaluate.choose"
METHOD = ("policy_pair", "reference", "objective", "adaptation", "draw", "on_policy")
READ: dict[str, tuple[str, ...]] = {
    "degrade": ("seed", "prompts", "degradation"),
    "sample": ("seed", "model", IDENTITY, "sample", "dataset"),
    "import": ("model", IDENTITY, "dataset"),
    "pretrain": ("seed", "model", IDENTITY, "pretrain"),
    "train": ("seed", "model", IDENTITY, *METHOD, "train"),
    "images": ("seed", "model", IDENTITY, "evaluate", CHOOSER, ITEMS, CONTESTANTS),
    "judge": ("evaluate", REFERENCES),
    "report": ("name", "evaluated"),
}
"""Of the recipe, and of what was read for it, what each stage depends on."""


def settings_of(stage: str, found: Checked) -> Row:
    """The settings of one stage, as plain data."""
    recipe = found.recipe
    tree = _result_only(components.plain(recipe))
    tree |= {IDENTITY: found.identity, REFERENCES: found.references, "prompts": found.prompts}
    tree |= {"evaluated": recipe.evaluate is not None, ITEMS: _digest(found.items)}
    tree["evaluate"] = _drawing(recipe) if stage == "images" else _judging(recipe)
    tree[CHOOSER] = components.plain(_chooser(recipe))
    tree[CONTESTANTS] = {name: each.identity for name, each in found.contestants.items()}
    tree["degradation"] = recipe.degradation_used and _lasting(recipe.degradation_used)
    keys = READ[stage]
    if stage == "train" and recipe.validation.save == "best":
        keys += ("validation", ITEMS)
    return {key: tree[key] for key in keys}


def changed(old: Row, new: Row, recipe: Recipe) -> list[str]:
    """Dotted names of what differs between the settings that a stage was begun with and those of a recipe.

    What only one of them has comes with another release: an option that the old ones lack had its default, and one
    that the new ones lack has no meaning any more.
    """
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    values |= {"prompts": None, "degradation": recipe.degradation_used, CHOOSER: _chooser(recipe)}
    filled = {key: _filled(old.get(key, new[key]), values.get(key)) for key in new}
    found = set(_differing(_result_only(filled), new))
    # What a source holds is described without the options that are at their default.
    return sorted(found | set(differences(filled.get("prompts"), new.get("prompts"), "prompts")))


def _result_only(tree: Row) -> Row:
    """Without what is mechanical."""
    found = dict(tree)
    for group, names in MECHANICAL.items():
        if isinstance(found.get(group), Mapping):
            found[group] = {key: value for key, value in found[group].items() if key not in names}
    if isinstance(found.get("pretrain"), Mapping):
        found["pretrain"] = _result_only(found["pretrain"])
    return found


def _filled(old: Any, value: Any) -> Any:
    """Plain data of a value of the same type as `value`, with the defaults of what it lacks."""
    if not (dataclasses.is_dataclass(value) and isinstance(old, Mapping)):
        return old
    if isinstance(value, tuple(components.KINDS)):
        name = components.name_of(value)
        return {name: _with_defaults(old[name] or {}, value)} if set(old) == {name} else old
    return _with_defaults(old, value)


def _with_defaults(old: Mapping[str, Any], value: Any) -> Row:
    found: Row = {}
    for field in dataclasses.fields(value):
        if field.name in old:
            found[field.name] = _filled(old[field.name], getattr(value, field.name))
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = components.plain(field.default_factory())
        else:
            default = getattr(value, field.name) if field.default is dataclasses.MISSING else field.default
            found[field.name] = components.plain(default)
    return found


def _differing(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in new:
            yield from _differing(old.get(name), new[name], f"{path}.{name}" if path else name)
    elif old != new:
        yield path


def _drawing(recipe: Recipe) -> Row:
    """What of an evaluation decides which images there are, beside the metric that chooses scales."""
    found = components.plain(recipe.evaluate) if recipe.evaluate else {}
    return {name: value for name, value in found.items() if name not in JUDGING}


def _chooser(recipe: Recipe) -> Metric | None:
    return recipe.evaluate.chooser if recipe.evaluate else None


def _judging(recipe: Recipe) -> Row:
    """What of it decides what is said of them."""
    return {"metrics": components.plain(recipe.evaluate.metrics)} if recipe.evaluate else {}


def _lasting(degradation: Degradation) -> Row:
    """Its options, without those that change nothing in what comes out."""
    ((name, options),) = components.plain(degradation).items()
    return {name: {key: value for key, value in options.items() if key not in degradation.mechanical}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
