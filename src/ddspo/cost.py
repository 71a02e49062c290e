"""What a run will need, before it starts: counted from the recipe and the model's configuration, without weights.

Everything here is arithmetic on shapes: the networks are built on the "meta" device, where a tensor has a shape and
no memory, and the adaptation is attached to them as training attaches it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Doc

from ddspo import components
from ddspo.adaptations.base import Adaptation, Behaviour
from ddspo.backbones._outline import outline
from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Backbone, Model
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.store import GIB
from ddspo.policy_pairs.base import Condition
from ddspo.prompts.reading import read_prompts
from ddspo.recipe import Recipe
from ddspo.stages.evaluate import MODELS, Evaluation
from ddspo.stages.import_pairs import Dataset
from ddspo.training.fit import Optimisation
from ddspo.training.policies import Policies
from ddspo.training.validation import Validation

D = TypeVar("D", bound="Device")

BRANCHES = len(Pair._fields)
HALF = 2
"""Bytes of a number of a stored latent."""


@dataclass(frozen=True)
class Work:
    """Work (a forward is one prediction of the denoiser for one latent)"""

    pairs: Annotated[int, Doc("pairs, with labels or of a dataset at most")]
    samples: Annotated[
        int, Doc("latents sampled, also for on_policy: 2 a pair, with labels as many as the candidates, 0 imported")
    ]
    sample_forwards: Annotated[int, Doc("forwards of sampling: latents x evaluations of the sampler")]
    pretrain_forwards: Annotated[int, Doc("forwards of winner and loser while they are pretrained; as many backwards")]
    updates: Annotated[int, Doc("updates of the policy")]
    pairs_trained: Annotated[int, Doc("pairs that all updates see: updates x batch")]
    train_texts: Annotated[int, Doc("texts encoded for training, at most: a pair's prompt, and its degraded one")]
    frozen_forwards: Annotated[int, Doc("forwards of frozen policies in training")]
    policy_forwards: Annotated[int, Doc("forwards of the policy in training; as many backwards")]
    validation_forwards: Annotated[int, Doc("forwards of the pictures and scores on the way, at most")]
    evaluate_forwards: Annotated[int, Doc("forwards of the evaluation, at most")]
    forward_flops: Annotated[int, Doc("floating point operations of one forward")]
    total_flops: Annotated[
        int, Doc("of all forwards, a backward counted as two of them, or three if activations are recomputed")
    ]


@dataclass(frozen=True)
class Disk:
    """Disk"""

    pairs_bytes: Annotated[int, Doc("latents and states of pairs/ and of what is kept of rounds/, half precision")]
    pretraining_bytes: Annotated[int, Doc("winner and loser of a data-driven pair, and their checkpoints")]
    checkpoints_bytes: Annotated[int, Doc("checkpoints/: trained weights and optimizer states, as many as are kept")]
    aligned_bytes: Annotated[int, Doc("aligned/")]


@dataclass(frozen=True)
class Host:
    """Main memory, for each process"""

    latents_bytes: Annotated[int, Doc("pairs held at once, with their states where these are trained on")]
    conditions_bytes: Annotated[int, Doc("encoded texts, at most; none with train.encode=during")]


@dataclass(frozen=True)
class Device:
    """Accelerator memory while training, for each process (without activations)"""

    frozen_bytes: Annotated[int, Doc("frozen weights of the denoiser: base or reference, winner, loser")]
    others_bytes: Annotated[int, Doc("text encoders and autoencoder, loaded beside it")]
    trained_bytes: Annotated[int, Doc("trained weights, in single precision")]
    gradients_bytes: Annotated[int, Doc("their gradients")]
    optimizer_bytes: Annotated[int, Doc("AdamW's two moments of each")]
    average_bytes: Annotated[int, Doc("the moving average of the trained weights, if one is kept")]
    total_bytes: Annotated[int, Doc("sum; activations come on top and grow with train.device_batch")]


class PretrainingDevice(Device):
    """Accelerator memory while pretraining winner and loser, for each process (without activations)"""


@dataclass(frozen=True)
class Cost:
    """What one run takes; `pretraining` where the policy pair has a winner and a loser, which must be made."""

    work: Work
    disk: Disk
    host: Host
    device: Device
    pretraining: PretrainingDevice | None


def model_outline(model: Model) -> Backbone:
    """A recipe's model without weights; of a hub id only configurations and tokenizers are fetched.

    Raises:
        InputError: There is no such model, or its files cannot be read.
    """
    return outline(components.backbone_of(model), model)


def cost(recipe: Recipe) -> Cost:
    """Count what a recipe takes.

    Raises:
        InputError: The files of the model or of the evaluation cannot be read.
    """
    backbone = model_outline(recipe.model)
    with torch.device("meta"):
        condition = _condition(backbone)
        work = _work(recipe, backbone, _forward_flops(backbone, condition))
    latents = work.pairs * BRANCHES * torch.Size(backbone.latent_shape).numel() * HALF
    read = 1 + (recipe.states if recipe.draw.states == "visited" else 0)
    pretraining = in_pretraining(recipe) if _pretrains(recipe) else None
    device = in_training(recipe, backbone)
    return Cost(
        work=work,
        disk=Disk(
            pairs_bytes=latents * (1 + recipe.states) * (1 + min(recipe.rounds, 1 + _kept(recipe))),
            pretraining_bytes=_disk(pretraining, recipe.pretrain.adaptation, recipe.pretrain.train.keep, BRANCHES),
            checkpoints_bytes=_kept(recipe) * _checkpoint(device),
            aligned_bytes=_disk(device, recipe.adaptation, 0, 1),
        ),
        host=Host(
            latents_bytes=min(latents * read, int(recipe.train.window * GIB)),
            conditions_bytes=work.train_texts * size(condition.values()) if recipe.train.encode == "before" else 0,
        ),
        device=device,
        pretraining=pretraining,
    )


def in_training(recipe: Recipe, backbone: Backbone) -> Device:
    """Memory of the `train` stage; the outline is changed as training changes a backbone."""
    base = network_size(backbone.denoiser)
    with torch.device("meta"):
        policies = Policies.of(backbone, recipe.adaptation, seed=0, reference=recipe.reference)
    held = [policies.trained, *policies.behaviours.values()]
    beside = 0
    if _pretrains(recipe):
        whole = recipe.pretrain.adaptation.saves_pipeline
        beside = BRANCHES * base if whole else in_pretraining(recipe).trained_bytes
    trained = size(parameter for group in policies.groups().values() for parameter in group)
    return _device(Device, backbone, Held(held, trained, beside), recipe.train)


def in_pretraining(recipe: Recipe) -> PretrainingDevice:
    """Memory of the `pretrain` stage."""
    backbone, adaptation = model_outline(recipe.model), recipe.pretrain.adaptation
    with torch.device("meta"):
        pair = adaptation.fork(backbone, Pair(0, 0))
    trained = size(parameter for each in pair for parameter in adaptation.parameters(each))
    return _device(PretrainingDevice, backbone, Held(pair, trained), recipe.pretrain.train)


@dataclass(frozen=True)
class Held:
    """What a stage holds of the denoiser: behaviours, bytes that are trained, and frozen bytes beside."""

    behaviours: Iterable[Behaviour]
    trained: int
    beside: int = 0


def _device(kind: type[D], backbone: Backbone, held: Held, settings: Optimisation) -> D:
    """Bytes of all networks that some behaviour uses, each once, and of what training adds to them."""
    networks = {id(each.network): each.network for each in held.behaviours}.values()
    trained, average = held.trained, held.trained if settings.average else 0
    frozen = sum(map(network_size, networks)) - trained + held.beside
    parts = (part for part in backbone.pipeline.components.values() if isinstance(part, nn.Module))
    others = sum(network_size(part) for part in parts if part is not backbone.denoiser)
    return kind(
        frozen_bytes=frozen,
        others_bytes=others,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=2 * trained,
        average_bytes=average,
        total_bytes=frozen + others + 4 * trained + average,
    )


def _disk(device: Device | None, adaptation: Adaptation, checkpoints: int, results: int) -> int:
    """What training leaves: checkpoints, and results, each with the rest of the pipeline where it is whole."""
    if device is None:
        return 0
    rest = results * device.others_bytes if adaptation.saves_pipeline else 0
    return checkpoints * _checkpoint(device) + device.trained_bytes + rest


def _pretrains(recipe: Recipe) -> bool:
    return "winner" in recipe.policy_pair.policies


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(each.numel() * each.element_size() for each in tensors)


def network_size(network: nn.Module) -> int:
    """Bytes of a network: its weights and its buffers, such as tables of positions."""
    return size([*network.parameters(), *network.buffers()])


def _work(recipe: Recipe, backbone: Backbone, flops: int) -> Work:
    sampling, training = recipe.sample, recipe.train
    seen = training.steps * training.batch
    first = recipe.pretrain.train
    pretrain = BRANCHES * first.steps * first.batch if _pretrains(recipe) else 0
    pairs = _imported(recipe.dataset) if recipe.dataset else sampling.most
    every = pairs * (1 + recipe.rounds)
    samples = 0 if recipe.dataset else sampling.samples * (1 + recipe.rounds)
    with sampling_with(backbone, sampling.scheduler, sampling.scheduler_options):
        sample = samples * backbone.evaluations(*sampling.how(backbone))
    spared = int(recipe.draw.latents == "winner")  # a single latent needs one prediction less of either kind
    frozen, policy = seen * (recipe.policy_pair.frozen_forwards - spared), seen * (BRANCHES - spared)
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
        train_texts=(BRANCHES if recipe.has_degraded else 1) * (every if training.encode == "before" else seen),
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


def _kept(recipe: Recipe) -> int:
    """Checkpoints: the newest, and the best where there are scores."""
    return recipe.train.keep + int(bool(recipe.validation.every and recipe.validation.scored))


def _checkpoint(device: Device) -> int:
    return device.trained_bytes + device.average_bytes + device.optimizer_bytes


def _validation(settings: Validation, updates: int, backbone: Backbone) -> int:
    """The base once, then the policy at each validation."""
    rounds = 1 + updates // settings.every if settings.every else 0
    images = max(settings.pictures, settings.scored)
    return rounds * images * backbone.evaluations(settings.steps, settings.guidance)


def _evaluation(settings: Evaluation, backbone: Backbone) -> int:
    """Both models over all scales on the validation prompts, then each at one, which may be the dearest."""
    each = {scale: backbone.evaluations(settings.steps, scale) for scale in settings.scales}
    items = {
        name: len(read_prompts(getattr(settings, name), f"evaluate.{name}")) for name in ("validation", "prompts")
    }
    validation = items["validation"] * settings.validation_images * sum(each.values())
    return len(MODELS) * (validation + items["prompts"] * settings.images * max(each.values()))


def _condition(backbone: Backbone) -> Condition:
    """Shapes of one text's condition. Fake tensors, because text encoders look into the values of others' masks."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = backbone.encode(["a prompt"])
    return {name: torch.empty(row.shape, dtype=row.dtype) for name, row in rows.items()}


def _forward_flops(backbone: Backbone, condition: Condition) -> int:
    denoiser, dtype = backbone.denoiser, next(backbone.denoiser.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(denoiser, torch.empty(1, *backbone.latent_shape, dtype=dtype), torch.ones(1), condition)
    return counter.get_total_flops()
