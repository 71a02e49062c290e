"""The work of a run: forwards of the denoiser, counted from the recipe, and what one of them takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Doc

from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.cost.shapes import BRANCHES
from ddspo.errors import InputError
from ddspo.judging.options import Evaluation
from ddspo.prompts.reading import read_prompts
from ddspo.recipe import Recipe
from ddspo.run_folder import MODELS
from ddspo.stages.import_pairs import Dataset


@dataclass(frozen=True)
class Work:
    """Work (a forward is one prediction of the denoiser for one latent)"""

    pairs: Annotated[int, Doc("pairs, with labels or of a dataset at most")]
    samples: Annotated[
        int,
        Doc("latents sampled, also for on_policy: of a pair those that are looked at, or all candidates of a judge"),
    ]
    sample_forwards: Annotated[int, Doc("forwards of sampling: latents x evaluations of the sampler")]
    pretrain_forwards: Annotated[int, Doc("forwards of winner and loser while they are pretrained; as many backwards")]
    updates: Annotated[int, Doc("updates of the policy")]
    pairs_trained: Annotated[int, Doc("pairs that all updates see: updates x batch")]
    train_texts: Annotated[
        int, Doc("texts encoded for training, at most: a pair's prompt, and its degraded one if it is read")
    ]
    frozen_forwards: Annotated[int, Doc("forwards of frozen policies in training")]
    policy_forwards: Annotated[int, Doc("forwards of the policy in training; as many backwards")]
    survey_forwards: Annotated[
        int, Doc("forwards of a first look at each batch, for an objective that reads a mean over it")
    ]
    validation_forwards: Annotated[
        int, Doc("forwards of the pictures and scores on the way and of the last ones, at most")
    ]
    evaluate_forwards: Annotated[int, Doc("forwards of the evaluation, at most")]
    forward_flops: Annotated[int, Doc("floating point operations of one forward")]
    text_flops: Annotated[int, Doc("of encoding one text")]
    image_flops: Annotated[int, Doc("of decoding one image")]
    total_flops: Annotated[
        int, Doc("of all forwards, a backward counted as two of them, or three if activations are recomputed")
    ]


class Drawn(NamedTuple):
    """Images, and the forwards that they take."""

    images: int
    forwards: int


class Flops(NamedTuple):
    """Floating point operations of one prediction for one latent, of encoding one text, and of decoding one image."""

    forward: int
    text: int
    image: int


def count_work(recipe: Recipe, backbone: Backbone, flops: Flops) -> Work:
    """Count the forwards of every stage; `flops` is what one of them takes."""
    sampling, training = recipe.sample, recipe.train
    seen = training.steps * training.batch
    first = recipe.pretrain.train
    pretrain = BRANCHES * first.steps * first.batch if recipe.pretrains else 0
    pairs = _imported(recipe.dataset) if recipe.dataset else sampling.most
    every = pairs * (1 + recipe.rounds)
    samples = recipe.samples * (1 + recipe.rounds)
    with sampling_with(backbone, sampling.scheduler, sampling.scheduler_options):
        sample = samples * backbone.evaluations(*sampling.how(backbone))
    asked = recipe.asked
    texts = BRANCHES if recipe.has_degraded and asked.degraded else 1
    trained = seen * pair_forwards(recipe)
    trained += first.steps * first.batch * pretraining_forwards(recipe) if recipe.pretrains else 0
    validation = on_the_way(recipe, backbone).forwards + in_the_end(recipe, backbone).forwards
    evaluate = in_evaluation(recipe.evaluate, backbone).forwards if recipe.evaluate else 0
    return Work(
        pairs=pairs,
        samples=samples,
        sample_forwards=sample,
        pretrain_forwards=pretrain,
        updates=training.steps,
        pairs_trained=seen,
        train_texts=texts * (every if training.encode == "before" else seen),
        frozen_forwards=seen * len(asked.frozen),
        policy_forwards=seen * len(asked.trained),
        survey_forwards=seen * surveyed(recipe),
        validation_forwards=validation,
        evaluate_forwards=evaluate,
        forward_flops=flops.forward,
        text_flops=flops.text,
        image_flops=flops.image,
        total_flops=flops.forward * (sample + trained + validation + evaluate),
    )


def _imported(dataset: Dataset) -> int:
    """Pairs of a dataset, at most."""
    known = [count for count in (dataset.pairs, dataset.format.count(dataset.source)) if count is not None]
    if not known:
        raise InputError("dataset.pairs: nobody knows how many rows this dataset has before it is read: give a number")
    return min(known)


def pair_forwards(recipe: Recipe) -> int:
    """Forwards that a pair is worth in training: a backward counts as two, or three if activations are recomputed."""
    asked = recipe.asked
    trained = (3 + int(recipe.train.gradient_checkpointing)) * len(asked.trained)
    return surveyed(recipe) + len(asked.frozen) + trained


def surveyed(recipe: Recipe) -> int:
    """Forwards of a pair in a first look at the batch."""
    return len(recipe.asked.frozen) + len(recipe.asked.trained) if recipe.objective.needs.mean else 0


def pretraining_forwards(recipe: Recipe) -> int:
    """The same while winner and loser are pretrained."""
    return (3 + int(recipe.pretrain.train.gradient_checkpointing)) * BRANCHES


def on_the_way(recipe: Recipe, backbone: Backbone) -> Drawn:
    """Validations: the base once, then the policy at each."""
    settings = recipe.validation
    rounds = 1 + recipe.train.steps // settings.every if settings.every else 0
    images = rounds * max(settings.pictures, settings.scored)
    return Drawn(images, images * backbone.evaluations(*settings.how(backbone)))


def in_the_end(recipe: Recipe, backbone: Backbone) -> Drawn:
    """The last pictures, of base and policy."""
    settings = recipe.validation
    images = len(MODELS) * settings.final
    return Drawn(images, images * backbone.evaluations(*settings.how(backbone)))


def in_evaluation(settings: Evaluation, backbone: Backbone) -> Drawn:
    """Every model over all scales on the validation prompts, none given up, then at one, which may be the dearest."""
    each = {scale: backbone.evaluations(settings.steps, scale) for scale in settings.scales}
    drawn = len(read_prompts(settings.prompts, "evaluate.prompts")) * settings.images
    images, forwards = drawn, drawn * max(each.values())
    if settings.chooser and settings.validation:
        tried = len(read_prompts(settings.validation, "evaluate.validation")) * settings.validation_images
        images, forwards = images + tried * len(each), forwards + tried * sum(each.values())
    models = len(MODELS) + len(settings.models)
    return Drawn(models * images, models * forwards)


def flops_of(backbone: Backbone, condition: Condition) -> Flops:
    """Counted on the "meta" device; the condition is one text's."""
    dtype = backbone.compute_dtype
    latent, time = torch.empty(1, *backbone.latent_shape, dtype=dtype, device="meta"), torch.ones(1, device="meta")
    return Flops(
        _counted(lambda: backbone.predict(backbone.denoiser, latent, time, condition)),
        _encoded(backbone),
        _counted(lambda: backbone.autoencoder.decoded(latent)),
    )


def _encoded(backbone: Backbone) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _counted(lambda: backbone.encode(["a prompt"]))


def _counted(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()
