"""What each stage of a run does, and the memory that it takes at its peak."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.cost._once import once
from ddspo.cost.activations import autocast_of, of_forwards, of_images, of_texts
from ddspo.cost.memory import Device
from ddspo.cost.shapes import BRANCHES, Base
from ddspo.cost.work import Work, in_evaluation, in_the_end, on_the_way, pair_forwards, pretraining_forwards
from ddspo.metrics.base import Measure
from ddspo.pairs.store import GIB
from ddspo.recipe import Recipe
from ddspo.run_folder import MODELS
from ddspo.training.optimisation import Optimisation
from ddspo.training.texts import ENCODED_AT_ONCE

SINGLE, HALF = 4, 2
"""Bytes of a number of a latent at work, and of a stored one."""
PIXEL = 3 * 4
"""Bytes of a pixel of a decoded image, on its way to 8 bits."""


class Stage(NamedTuple):
    """What a stage does, and the most memory that it takes.

    `train` is what its steps take; encoding texts before it, looking at the policy on the way, making pairs with it
    and the last pictures have rows of their own.

    Attributes:
        name: Of the stage, or of a part of `train`: texts, validation, rounds, pictures.
        forwards: Of the denoiser for one latent, those within training's steps left out.
        trained_pairs: Pairs that training's steps see.
        images: Decoded, or encoded where pairs are imported; of `judge`, judged.
        texts: Encoded.
        device_bytes: The accelerator's, for each process, with activations.
        host_bytes: Main memory's, for each process, of weights, latents and images: libraries come on top.
        loads: How often a model is loaded.
        pair: What one of its pairs takes, in those of `train`.
    """

    name: str
    forwards: int
    trained_pairs: int
    images: int
    texts: int
    device_bytes: int
    host_bytes: int
    loads: int = 0
    pair: float = 1.0


@dataclass(frozen=True)
class Counted:
    """What stages are made of: a recipe, a model's shapes, and what was counted of them before.

    The denoiser must be as it is loaded.

    Attributes:
        condition: Of one text.
        base: Bytes of the denoiser's weights at work.
        whole: Bytes of all parts of the model, as they are loaded.
        beside: Bytes of those beside the denoiser.
        pairs: Bytes of all pairs' latents.
    """

    recipe: Recipe
    backbone: Backbone
    condition: Condition
    base: Base
    whole: int
    beside: int
    pairs: int

    @property
    def loaded(self) -> int:
        """Bytes of all parts on the accelerator, ready to draw."""
        return self.base.stays + self.base.passes + self.beside

    @cached_property
    def latent(self) -> int:
        """Numbers of one latent."""
        return torch.Size(self.backbone.latent_shape).numel()

    @cached_property
    def image(self) -> int:
        """Bytes of one image while it is made."""
        return self.backbone.call["height"] * self.backbone.call["width"] * PIXEL

    def window(self, given: Optimisation) -> int:
        """Bytes of pairs that training holds, with their states where these are trained on."""
        visited = given is self.recipe.train and self.recipe.draw.states == "visited"
        return min(self.pairs * (1 + self.recipe.sample.states * visited), int(given.window * GIB))

    @cached_property
    def texts(self) -> int:
        """Activations while texts are encoded before training."""
        return self.encoding(ENCODED_AT_ONCE)

    def encoding(self, texts: int) -> int:
        """Activations of encoding so many texts at once."""
        return once(self.backbone, ("texts", texts), lambda: of_texts(self.backbone, texts))

    def branches(self, steps: int, guidance: float) -> int:
        """Predictions that guidance takes at once for a latent."""
        return self.backbone.evaluations(steps, guidance) // self.backbone.evaluations(steps, 1.0)

    def generation(self, latents: int, how: tuple[int, float], *, decodes: bool = True, trains: bool = False) -> int:
        """Activations of generating so many latents at once: of texts, predictions, or decoding, whichever is most.

        Args:
            latents: How many.
            how: Sampler steps and guidance scale.
            decodes: Whether images are made of them.
            trains: Whether it happens while a policy is trained, under autocast.
        """
        dtype = autocast_of(self.recipe.model) if trains else None
        backbone, rows = self.backbone, latents * self.branches(*how)
        found = [
            self.encoding(latents),
            once(backbone, ("forwards", rows, dtype), lambda: of_forwards(backbone, self.condition, rows, dtype)),
            once(backbone, ("images", latents), lambda: of_images(backbone, latents)) if decodes else 0,
        ]
        return max(found) + latents * self.latent * SINGLE


def stages_of(counted: Counted, work: Work, training: Device, pretraining: Device | None) -> tuple[Stage, ...]:
    """All stages of a recipe, in order.

    Args:
        counted: The recipe and its model.
        work: Of the run.
        training: Memory of its steps.
        pretraining: The same, where winner and loser are made.
    """
    recipe = counted.recipe
    found = [Stage("degrade", 0, 0, 0, 0, 0, 0)] if recipe.degradation_used else []
    found += [_import(counted, work)] if recipe.dataset else [_sample(counted, work)]
    if pretraining:
        given = recipe.pretrain.train
        found += _train(counted, "pretrain", given, pretraining, work.pairs)
    found += _train(counted, "train", recipe.train, training, work.train_texts)
    found += [*_beside_training(counted, work, training), *_evaluation(counted)]
    return tuple(found)


def _import(counted: Counted, work: Work) -> Stage:
    dataset, sides = counted.recipe.dataset, len(counted.recipe.sides)
    assert dataset
    batch, images = sides * dataset.batch, sides * work.pairs
    device = counted.loaded + of_images(counted.backbone, batch, encoded=True)
    return Stage("import", 0, 0, images, 0, device, counted.whole + batch * counted.image, loads=1)


def _sample(counted: Counted, work: Work) -> Stage:
    """All parts are on the accelerator, and a judge of labels beside them."""
    recipe, rounds = counted.recipe, 1 + counted.recipe.rounds
    given, latents = recipe.sample, work.samples // rounds
    with sampling_with(counted.backbone, given.scheduler, given.scheduler_options):
        how = given.how(counted.backbone)
        at_once = given.batch * (BRANCHES if given.labels else len(recipe.sides))
        work_bytes = counted.generation(at_once, how, decodes=given.labels is not None)
        texts = latents * counted.branches(*how)
    judge = weights_of(given.labels.judge) if given.labels else 0
    states = at_once * given.states * counted.latent * HALF
    shard = given.layout.shard * len(recipe.sides) * (1 + given.states) * counted.latent * HALF
    return Stage(
        "sample",
        forwards=work.sample_forwards // rounds,
        trained_pairs=0,
        images=latents if given.labels else 0,
        texts=texts,
        device_bytes=counted.loaded + judge + work_bytes + states,
        host_bytes=max(counted.whole, shard + (at_once * counted.image if given.labels else 0)) + judge,
        loads=1,
    )


def _train(counted: Counted, name: str, given: Optimisation, device: Device, texts: int) -> list[Stage]:
    """Encoding texts, where it comes first, with all of the model on the accelerator; and the steps."""
    pairs = given.steps * given.batch
    before = given.encode == "before"
    first = "texts" if name == "train" else "pretrain texts"
    encoding = Stage(first, 0, 0, 0, texts, counted.loaded + counted.texts, counted.whole)
    host = max(counted.whole, counted.base.waits + counted.beside - device.others_bytes + counted.window(given))
    pair = pretraining_forwards(counted.recipe) / pair_forwards(counted.recipe) if name == "pretrain" else 1.0
    peak = max(device.total_bytes, counted.loaded)
    step = Stage(name, 0, pairs, 0, 0 if before else texts, peak, host, loads=1, pair=pair)
    return [encoding, step] if before else [step]


def _beside_training(counted: Counted, work: Work, training: Device) -> Iterator[Stage]:
    """Validation and rounds, with all parts beside the policy; and the last pictures, of a model loaded anew."""
    recipe, backbone = counted.recipe, counted.backbone
    given, way, end = recipe.validation, on_the_way(recipe, backbone), in_the_end(recipe, backbone)
    resting, window = counted.beside, counted.base.waits + counted.window(recipe.train)
    policy = training.held_bytes - training.others_bytes + resting
    if way.images:
        how, batch = given.how(backbone), min(given.batch, max(given.pictures, given.scored))
        judge = weights_of(recipe.scoring) if recipe.scoring else 0
        made = policy + counted.generation(batch, how, trains=True)
        device = max(made, policy - resting + judge)
        texts = way.images * counted.branches(*how)
        yield Stage("validation", way.forwards, 0, way.images, texts, device, resting + window + judge)
    if recipe.rounds:
        with sampling_with(backbone, recipe.sample.scheduler, recipe.sample.scheduler_options):
            how = recipe.sample.how(backbone)
            at_once = recipe.sample.batch * (BRANCHES if recipe.sample.labels else len(recipe.sides))
            made = policy + counted.generation(at_once, how, decodes=False, trains=True)
        share = recipe.rounds / (1 + recipe.rounds)
        forwards, texts = round(work.sample_forwards * share), round(work.samples * share) * counted.branches(*how)
        yield Stage("rounds", forwards, 0, 0, texts, made, resting + window)
    if end.images:
        yield _pictures(counted, "pictures", end.images, end.forwards, given.batch, given.how(backbone), 1)


def _evaluation(counted: Counted) -> Iterator[Stage]:
    """Every model draws alone, and every judge judges alone."""
    given = counted.recipe.evaluate
    if not given:
        return
    drawn = in_evaluation(given, counted.backbone)
    how, models = (given.steps, max(given.scales)), len(MODELS) + len(given.models)
    loads = models * (1 + bool(given.chooser and given.validation))
    yield _pictures(counted, "images", drawn.images, drawn.forwards, given.batch, how, loads)
    judges = max((weights_of(metric) for metric in given.metrics), default=0)
    yield Stage("judge", 0, 0, drawn.images, 0, judges, judges + given.judge_batch * counted.image)


def _pictures(
    counted: Counted, name: str, images: int, forwards: int, batch: int, how: tuple[int, float], loads: int
) -> Stage:
    """A model that is loaded, draws, and writes."""
    at_once = min(batch, images)
    device = counted.loaded + counted.generation(at_once, how)
    host = max(counted.whole, at_once * counted.image)
    return Stage(name, forwards, 0, images, images * counted.branches(*how), device, host, loads)


def weights_of(measure: Measure) -> int:
    """Bytes of a judge's weights, as they are published."""
    return int(sum(each.size for each in measure.weights))
