"""Everything about a recipe that can be found wrong before any long work, and what was read to find out."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psutil
import torch
from accelerate import PartialState

from ddspo import components
from ddspo.backbones._identity import identity
from ddspo.backbones._outline import outline
from ddspo.backbones._schedule import check_guidance, check_steps, own_scheduler
from ddspo.backbones._tokenizers import readers_in, unknown
from ddspo.backbones.base import Backbone, Found
from ddspo.contestants import Contestant, contestant
from ddspo.degradations.base import is_unspaced
from ddspo.digests import file_identity
from ddspo.errors import InputError, quoted, shortened
from ddspo.metrics.base import Measure, SetMetric
from ddspo.places import local
from ddspo.prompts.overlaps import overlaps
from ddspo.prompts.reading import Reading, read_prompts, sound
from ddspo.recipe import Recipe
from ddspo.references import check_references
from ddspo.rows import Row, some_rows
from ddspo.stages.degrade import nothing_left, unspaced
from ddspo.stages.import_pairs import Dataset
from ddspo.stages.train import Method
from ddspo.training.optimisation import Optimisation, check_batch

LOOKED_AT = 10_000
"""Prompts that are looked at before long work, and for what a few can tell: a source may hold millions."""
FEW = 100
"""Captions that are looked at before: an image comes with each."""

NEGATIVE = "negative_prompt"
UNREAD = {
    "degraded": "degradation=given takes variants from it",
    NEGATIVE: "images are made without negative prompts",
}
"""Why nobody reads a column of the prompts, or how it is read."""


class Checked(NamedTuple):
    """A recipe whose backbone is named, and what was found behind the names in it.

    Attributes:
        prompts: What the source of prompts holds.
        items: The rows of the evaluation, by split.
        identity: Digest of the model's files.
        references: Digest of the evaluation's references.
        contestants: Who else draws in the evaluation, by name.
        remarks: What is not wrong, but should be known; a line each.
    """

    recipe: Recipe
    prompts: Row
    items: dict[str, list[Row]]
    identity: str | None = None
    references: str | None = None
    contestants: Mapping[str, Contestant] = MappingProxyType({})
    remarks: tuple[str, ...] = ()


class _Prompts(NamedTuple):
    """What a source of prompts holds, the first of them, and what should be known of it."""

    description: Row
    texts: list[str]
    remarks: list[str]


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
    try:
        return _check(given, method, processes, degraded)
    except OSError as error:
        if error.strerror is None:  # one of a library's own, which says nothing of a file
            raise
        where = f"{shortened(str(error.filename))}: {error.strerror}"
        raise InputError(f"{where}: the recipe names it or a folder above it: give another path") from None


def _check(given: Recipe, method: Method, processes: int, degraded: Path | None) -> Checked:
    backbone = components.backbone_of(given.model)
    found = backbone.check(given.model)
    if given.model.revision and local(given.model.path):
        raise InputError(f"model.revision {quoted(given.model.revision)}: only a hub id has one: leave it out")
    _check_sampling(given, found, backbone)
    _check_network(given, backbone)
    _check_training(given, method, processes)
    if given.dataset:
        given.dataset.format.check(given.dataset.source)
    with_prompts = given.degradation_used or not given.dataset
    prompts = _check_prompts(given, method, degraded) if with_prompts else _Prompts({}, [], [])
    items = _check_evaluation(given) if given.evaluate else {}
    others = given.evaluate.models if given.evaluate else {}
    contestants = {name: contestant(name, place, given.model, items["evaluation"]) for name, place in others.items()}
    readers = readers_in(found, backbone.pipeline_class, lower=backbone.lower)
    asked = {"prompts": prompts.texts, "evaluate.prompts": [row["prompt"] for row in items.get("evaluation", [])]}
    strange = [line for name, texts in asked.items() for line in unknown(readers, texts, name)]
    shared = [*_unread(items), *overlaps(prompts.texts, items)] if items else []
    never = [line for name, each in _trainings(given).items() for line in each.remarks(name)]
    never += given.validation.remarks(given.train.steps)
    named = replace(given, model=replace(given.model, backbone=components.name_of(backbone)))
    references = given.evaluate.references if given.evaluate else None
    seen = file_identity(local(references) or Path(references)) if references else None
    remarks = (*prompts.remarks, *strange, *shared, *never)
    return Checked(named, prompts.description, items, identity(given.model), seen, contestants, remarks)


def reading(given: Recipe, at_most: int | None = None) -> Reading:
    """The prompts that pairs are made of, read as the recipe says."""
    labels = given.sample.labels
    assert given.prompts is not None  # or there is a dataset
    fault = labels.judge.missing if labels else sound
    also = given.degradation_used.reads if given.degradation_used else None
    return Reading(given.prompts, whole=labels is not None, fault=fault, at_most=at_most, also=also)


def check_place(folder: Path) -> None:
    """Find out whether a folder can be written, without making it: by a file without a name beside or above it.

    Raises:
        InputError: It cannot.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"out {shortened(str(folder))}: {error.strerror}: give another folder") from None


def _check_network(given: Recipe, backbone: type[Backbone]) -> None:
    """Options that only the shapes of the networks can refuse; where there is none, these are not looked at."""
    model = given.model
    adaptations = {"adaptation": given.adaptation}
    if given.pretrains:
        adaptations["pretrain.adaptation"] = given.pretrain.adaptation
    unusual = {name: each for name, each in adaptations.items() if each.unusual}
    judges: list[tuple[str, Measure]] = []
    judges += [(f"evaluate.metrics.{each.name}", each) for each in given.evaluate.metrics] if given.evaluate else []
    judges += [("sample.labels.judge", given.sample.labels.judge)] if given.sample.labels else []
    judges += [("validation.metric", given.validation.metric)] if given.validation.metric else []
    sides = {name: judge.side for name, judge in judges if judge.side}
    if not unusual and not sides and {model.resolution, model.max_length, model.distilled_guidance} == {None}:
        return
    built = outline(backbone, model, reads=False)
    for name, each in unusual.items():
        fault = each.check(built)
        if fault:
            raise InputError(f"{name}.{components.name_of(each)}.{fault}")
    height, width = built.call["height"], built.call["width"]
    for name, side in sides.items():
        if {height, width} != {side}:
            raise InputError(
                f"{name}: it reads images of {side} x {side} pixels, and the model makes {width} x {height}: "
                f"set model.resolution={side}, or choose another"
            )
    need, have = least_memory(built), PartialState().device
    if model.resolution and need > memory_of(have):
        raise InputError(
            f"model.resolution {model.resolution}: one layer of the autoencoder needs {need / 2**30:.0f} GiB "
            f"for one image, and {have} has {memory_of(have) / 2**30:.0f}: give less"
        )


def least_memory(backbone: Backbone) -> int:
    """Bytes of the input and output of the autoencoder's last layers, which work on whole images, for one."""
    config, size = backbone.pipeline.vae.config, backbone.call
    channels = (config.get("decoder_block_out_channels") or config.get("block_out_channels") or (0,))[0]
    return 2 * channels * size["height"] * size["width"] * backbone.pipeline.vae.dtype.itemsize


def memory_of(device: torch.device) -> int:
    """Bytes of all the memory of a device."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total


def _check_sampling(given: Recipe, found: Found, backbone: type[Backbone]) -> None:
    given.sample.check(found)
    scales = {"sample.guidance": [given.sample.guidance], "validation.guidance": [given.validation.guidance]}
    scales["evaluate.scales"] = [*given.evaluate.scales] if given.evaluate else []
    check_guidance(found.path, scales, guides=backbone.guides(found))
    scheduler = own_scheduler(found)
    if given.validation.steps:
        check_steps(scheduler, given.validation.steps, "validation.steps")
    if given.evaluate:
        check_steps(scheduler, given.evaluate.steps, "evaluate.steps")


def _check_training(given: Recipe, method: Method, processes: int) -> None:
    for name, settings in _trainings(given).items():
        settings.check(name)
        check_batch(settings, processes, name)
        if settings.compile and given.model.quantize == "nf4":
            raise InputError(f"{name}.compile: 4-bit layers cannot be compiled: leave it out, or model.quantize=nf4")
    if given.validation.every and given.validation.scored and not given.validation_metric:
        raise InputError(
            "validation.scored: nobody judges: name validation.metric, or give evaluate a metric of single images; or "
            "use 0"
        )
    if not (given.evaluate and given.evaluate.validation):
        read_held_out(given)
    given.validation.check(given.train.steps)
    _check_memory_options(given, processes)
    method.check(given.train, given)
    if given.dataset and not given.degradation_used:  # its prompts are not looked at before
        method.check_prompts(None, labels=given.has_labels)


def _trainings(given: Recipe) -> dict[str, Optimisation]:
    """How anything is trained, by its name in the recipe."""
    return {"train": given.train} | ({"pretrain.train": given.pretrain.train} if given.pretrains else {})


def _check_memory_options(given: Recipe, processes: int) -> None:
    """Whether what is trained can be trained beside weights that are rounded, or that are not always there."""
    model = given.model
    option = "model.quantize rounds" if model.quantize else "model.offload moves" if model.offload else None
    for name, train in _trainings(given).items():
        adaptation = given.adaptation if name == "train" else given.pretrain.adaptation
        if option and (adaptation.saves_pipeline or train.parallel == "fsdp"):
            how = f"{components.name_of(adaptation)} trains" if adaptation.saves_pipeline else "fsdp shares out"
            raise InputError(f"{name}: {how} weights that {option}: use lora with ddp")
        if model.offload and not train.gradient_checkpointing:
            line = f"training would keep all weights on the accelerator: set {name}.gradient_checkpointing=true"
            raise InputError(f"model.offload: {line}")
    if model.offload and processes > 1:
        raise InputError(f"model.offload: {processes} processes, and it works in one alone: leave it out")


def _check_prompts(given: Recipe, method: Method, degraded: Path | None) -> _Prompts:
    """Whether they can be degraded and drawn as the recipe says."""
    found, how = given.dataset or reading(given, LOOKED_AT), given.degradation_used
    looked = found.captions(FEW) if isinstance(found, Dataset) else found
    rows = some_rows(degraded, LOOKED_AT) if degraded else list(looked)
    texts = [row["prompt"] for row in rows]
    if how and not degraded and rows and len(how.check(rows)) == len(rows):
        raise nothing_left(how, len(rows), texts[0])
    method.check_prompts(texts, labels=given.has_labels)
    remarks = [] if isinstance(found, Dataset) else [_unused("prompts", name) for name in sorted(found.unread)]
    without = sum(map(is_unspaced, texts))
    if how and how.by_spaces and without:
        remarks.append(f"prompts: {unspaced(f'{without:,} of {len(texts):,} are')}")
    return _Prompts((found if isinstance(found, Dataset) else found.source).description(), texts, remarks)


def _unread(items: Mapping[str, Sequence[Row]]) -> list[str]:
    """A line for either list of the evaluation whose rows have a negative prompt."""
    keys = {"validation": "evaluate.validation", "evaluation": "evaluate.prompts"}
    return [_unused(keys[split], NEGATIVE) for split, rows in items.items() if any(row.get(NEGATIVE) for row in rows)]


def _unused(where: str, column: str) -> str:
    return f"{where}: column {column!r} is not used: {UNREAD[column]}"


def _check_evaluation(recipe: Recipe) -> dict[str, list[Row]]:
    given = recipe.evaluate
    assert given
    if given.references:
        check_references(given.references)
    found = {"evaluation": read_prompts(given.prompts, "evaluate.prompts", partial(_missing, given.metrics))}
    if given.validation:
        judges = [metric for metric in (given.chooser, recipe.scoring) if metric]
        found["validation"] = read_prompts(given.validation, "evaluate.validation", partial(_missing, judges))
    sets = [metric.name for metric in given.metrics if isinstance(metric, SetMetric)]
    if sets and len(found["evaluation"]) * given.images < 2:
        raise InputError(f"evaluate.images 1: {sets[0]} measures no single image: use 2 or more, or more prompts")
    return found


def read_held_out(given: Recipe) -> list[Row]:
    """Rows whose prompts are in no list of training, where a recipe has no evaluate.validation."""
    judges = [given.scoring] if given.scoring else []
    return read_prompts(given.validation.prompts, "validation.prompts", partial(_missing, judges))


def _missing(metrics: Sequence[Measure], row: Row) -> str | None:
    """The first thing that one of some metrics does not find in a row."""
    faults = ((metric.name, metric.missing(row)) for metric in metrics)
    return next((f"{name}: {fault}" for name, fault in faults if fault), None)
