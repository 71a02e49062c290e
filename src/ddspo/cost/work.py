"""The work of a run: forwards of the denoiser, counted from the recipe, and what one of them takes."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Doc

from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.cost.memory import BRANCHES
from ddspo.errors import InputError
from ddspo.judging.options import Evaluation
from ddspo.prompts.reading import read_prompts
from ddspo.recipe import Recipe
from ddspo.run_folder import MODELS
from ddspo.stages.import_pairs import Dataset
from ddspo.training.validation import Validation


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
    validation_forwards: Annotated[
        int, Doc("forwards of the pictures and scores on the way and of the last ones, at most")
    ]
    evaluate_forwards: Annotated[int, Doc("forwards of the evaluation, at most")]
    forward_flops: Annotated[int, Doc("floating point operations of one forward")]
    total_flops: Annotated[
        int, Doc("of all forwards, a backward counted as two of them, or three if activations are recomputed")
    ]


def count_work(recipe: Recipe, backbone: Backbone, flops: int) -> Work:
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
    spared = int(recipe.draw.one_state)  # of which one prediction less of either kind is needed
    frozen, policy = seen * (recipe.policy_pair.frozen_forwards - spared), seen * (BRANCHES - spared)
    texts = BRANCHES if recipe.has_degraded and recipe.policy_pair.reads_degraded else 1
    backward, first_backward = (2 + int(each.gradient_checkpointing) for each in (training, first))
    validation = _validation(recipe.validation, training.steps, backbone)
    evaluate = _evaluation(recipe.evaluate, backbone) if recipe.evaluate else 0
    return Work(
        pairs=pairs,
        samples=samples,
        sample_forwards=sample,
        pretrain_forwards=pretrain,
        updates=training.steps,
        pairs_trained=seen,
        train_texts=texts * (every if training.encode == "before" else seen),
        frozen_forwards=frozen,
        policy_forwards=policy,
        validation_forwards=validation,
        evaluate_forwards=evaluate,
        forward_flops=flops,
        total_flops=flops
        * (sample + (1 + first_backward) * pretrain + frozen + (1 + backward) * policy + validation + evaluate),
    )


def _imported(dataset: Dataset) -> int:
    """Pairs of a dataset, at most."""
    known = [count for count in (dataset.pairs, dataset.format.count(dataset.source)) if count is not None]
    if not known:
        raise InputError("dataset.pairs: nobody knows how many rows this dataset has before it is read: give a number")
    return min(known)


def _validation(settings: Validation, updates: int, backbone: Backbone) -> int:
    """The base once, then the policy at each validation; and both in the end."""
    rounds = 1 + updates // settings.every if settings.every else 0
    images = rounds * max(settings.pictures, settings.scored) + len(MODELS) * settings.final
    return images * backbone.evaluations(*settings.how(backbone))


def _evaluation(settings: Evaluation, backbone: Backbone) -> int:
    """Every model over all scales on the validation prompts, then at one, which may be the dearest."""
    each = {scale: backbone.evaluations(settings.steps, scale) for scale in settings.scales}
    drawn = len(read_prompts(settings.prompts, "evaluate.prompts")) * settings.images * max(each.values())
    if settings.chooser and settings.validation:
        tried = len(read_prompts(settings.validation, "evaluate.validation")) * settings.validation_images
        drawn += tried * sum(each.values())
    return (len(MODELS) + len(settings.models)) * drawn


def condition_shapes(backbone: Backbone) -> Condition:
    """Shapes of one text's condition. Fake tensors, because text encoders look into the values of others' masks."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = backbone.encode(["a prompt"])
    return {name: torch.empty(row.shape, dtype=row.dtype) for name, row in rows.items()}


def forward_flops(backbone: Backbone, condition: Condition) -> int:
    """Floating point operations of one prediction for one latent."""
    denoiser, dtype = backbone.denoiser, backbone.compute_dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(denoiser, torch.empty(1, *backbone.latent_shape, dtype=dtype), torch.ones(1), condition)
    return counter.get_total_flops()
