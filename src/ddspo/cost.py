"""What a run will need, before it starts: counted from the recipe and the model's configuration, without weights.

Everything here is arithmetic on shapes: the networks are built on the "meta" device, where a tensor has a shape and
no memory, and the adaptation is attached to them as training attaches it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Doc

from ddspo import components
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Backbone, Model, local
from ddspo.maths.pair import Pair
from ddspo.policy_pairs.base import Condition
from ddspo.prompt_files import read_prompts
from ddspo.recipe import Recipe
from ddspo.stages.evaluate import MODELS, Evaluation
from ddspo.training.policies import Policies
from ddspo.training.validation import Validation

BRANCHES = len(Pair._fields)
HALF = 2
"""Bytes of a number of a stored latent."""


@dataclass(frozen=True)
class Work:
    """Work (a forward is one prediction of the denoiser for one latent)"""

    pairs: Annotated[int, Doc("pairs sampled")]
    sample_texts: Annotated[int, Doc("texts encoded while sampling: both prompts of each pair")]
    sample_forwards: Annotated[int, Doc("forwards of sampling: pairs x 2 x evaluations of the sampler")]
    updates: Annotated[int, Doc("updates of the policy")]
    pairs_trained: Annotated[int, Doc("pairs that all updates see: updates x batch")]
    train_texts: Annotated[int, Doc("texts encoded before training, at most: a prompt and a degraded one a pair")]
    frozen_forwards: Annotated[int, Doc("forwards of frozen policies in training")]
    policy_forwards: Annotated[int, Doc("forwards of the policy in training; as many backwards")]
    validation_forwards: Annotated[int, Doc("forwards of the pictures and scores on the way, at most")]
    evaluate_forwards: Annotated[int, Doc("forwards of the evaluation, at most")]
    forward_flops: Annotated[int, Doc("floating point operations of one forward")]
    total_flops: Annotated[int, Doc("of all forwards, a backward counted as two of them")]


@dataclass(frozen=True)
class Disk:
    """Disk"""

    pairs_bytes: Annotated[int, Doc("latents of pairs/, half precision, uncompressed")]
    checkpoints_bytes: Annotated[int, Doc("checkpoints/: trained weights and optimizer states, as many as are kept")]
    aligned_bytes: Annotated[int, Doc("aligned/")]


@dataclass(frozen=True)
class Host:
    """Main memory, for each process"""

    latents_bytes: Annotated[int, Doc("all pairs")]
    conditions_bytes: Annotated[int, Doc("encoded texts, at most")]


@dataclass(frozen=True)
class Device:
    """Accelerator memory while training, for each process (without activations)"""

    frozen_bytes: Annotated[int, Doc("the denoiser's frozen weights, in the model's precision")]
    others_bytes: Annotated[int, Doc("text encoders and autoencoder, loaded beside it")]
    trained_bytes: Annotated[int, Doc("trained weights, single precision")]
    gradients_bytes: Annotated[int, Doc("their gradients")]
    optimizer_bytes: Annotated[int, Doc("AdamW's two moments of each")]
    average_bytes: Annotated[int, Doc("the moving average of the trained weights, if one is kept")]
    total_bytes: Annotated[int, Doc("sum; activations come on top and grow with train.device_batch")]


@dataclass(frozen=True)
class Cost:
    """What one run takes."""

    work: Work
    disk: Disk
    host: Host
    device: Device


def model_outline(model: Model) -> Backbone:
    """A recipe's model without weights; of a hub id only configurations and tokenizers are fetched.

    Raises:
        InputError: There is no such model, or its files cannot be read.
    """
    return outline(components.backbone_of(model), model)


def cost(recipe: Recipe, backbone: Backbone) -> Cost:
    """Count what a recipe takes.

    Args:
        recipe: What is to run.
        backbone: The outline of its model on the "meta" device; it is changed as training changes a backbone.
    """
    with torch.device("meta"):
        condition = backbone.encode(["a prompt"])
        work = _work(recipe, backbone, _forward_flops(backbone, condition))
        device, trained = _device(recipe, backbone)
    latents = recipe.sample.pairs * BRANCHES * torch.Size(backbone.latent_shape).numel() * HALF
    beside = device.others_bytes if recipe.adaptation.saves_pipeline else 0
    return Cost(
        work=work,
        disk=Disk(
            pairs_bytes=latents,
            checkpoints_bytes=_kept(recipe) * (trained + device.average_bytes + device.optimizer_bytes),
            aligned_bytes=trained + beside,
        ),
        host=Host(latents_bytes=latents, conditions_bytes=work.train_texts * size(condition.values())),
        device=device,
    )


def readable(found: Cost) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Groups, each a title and rows {what it is, value with its unit}."""
    for group in (found.work, found.disk, found.host, found.device):
        meanings = components.docs(type(group))
        values = {each.name: getattr(group, each.name) for each in dataclasses.fields(group)}
        yield type(group).__doc__ or "", [(meanings[name], with_unit(name, value)) for name, value in values.items()]


def with_unit(name: str, value: int) -> str:
    """A field's value as text: bytes in binary units, operations in decimal ones, counts as they are."""
    if name.endswith("_bytes"):
        power = max(0, min((value.bit_length() - 1) // 10, 4))
        return f"{value / 1024**power:,.4g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if name.endswith("_flops"):
        power = max(0, min((len(str(value)) - 1) // 3, 7))
        return f"{value / 1000**power:.4g} {('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z')[power]}FLOP"
    return f"{value:,}"


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(each.numel() * each.element_size() for each in tensors)


def network_size(network: nn.Module) -> int:
    """Bytes of a network: its weights and its buffers, such as tables of positions."""
    return size([*network.parameters(), *network.buffers()])


def _work(recipe: Recipe, backbone: Backbone, flops: int) -> Work:
    sampling, training = recipe.sample, recipe.train
    seen = training.steps * training.batch
    sample = sampling.pairs * BRANCHES * backbone.evaluations(sampling.steps, sampling.guidance)
    spared = int(recipe.draw.latents == "winner")  # a single latent needs one prediction less of either kind
    frozen, policy = seen * (recipe.policy_pair.frozen_forwards - spared), seen * (BRANCHES - spared)
    validation = _validation(recipe.validation, training.steps, backbone)
    evaluate = _evaluation(recipe.evaluate, backbone) if recipe.evaluate else 0
    return Work(
        pairs=sampling.pairs,
        sample_texts=sampling.pairs * BRANCHES,
        sample_forwards=sample,
        updates=training.steps,
        pairs_trained=seen,
        train_texts=sampling.pairs * BRANCHES,
        frozen_forwards=frozen,
        policy_forwards=policy,
        validation_forwards=validation,
        evaluate_forwards=evaluate,
        forward_flops=flops,
        total_flops=flops * (sample + frozen + 3 * policy + validation + evaluate),
    )


def _kept(recipe: Recipe) -> int:
    """Checkpoints: the newest, and the best where there are scores."""
    return recipe.train.keep + int(bool(recipe.validation.every and recipe.validation.scored))


def _validation(settings: Validation, updates: int, backbone: Backbone) -> int:
    """The base once, then the policy at each validation."""
    rounds = 1 + updates // settings.every if settings.every else 0
    images = max(settings.pictures, settings.scored)
    return rounds * images * backbone.evaluations(settings.steps, settings.guidance)


def _evaluation(settings: Evaluation, backbone: Backbone) -> int:
    """Both models over all scales on the validation prompts, then each at one, which may be the dearest."""
    each = {scale: backbone.evaluations(settings.steps, scale) for scale in settings.scales}
    items = {name: _rows(getattr(settings, name), f"evaluate.{name}") for name in ("validation", "prompts")}
    validation = items["validation"] * settings.validation_images * sum(each.values())
    return len(MODELS) * (validation + items["prompts"] * settings.images * max(each.values()))


def _rows(path: str, name: str) -> int:
    return len(read_prompts(local(path) or Path(path), name))


def _forward_flops(backbone: Backbone, condition: Condition) -> int:
    denoiser, dtype = backbone.denoiser, next(backbone.denoiser.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(denoiser, torch.empty(1, *backbone.latent_shape, dtype=dtype), torch.ones(1), condition)
    return counter.get_total_flops()


def _device(recipe: Recipe, backbone: Backbone) -> tuple[Device, int]:
    """Memory of training, and the bytes of what a checkpoint keeps of the weights."""
    frozen = network_size(backbone.denoiser)
    parts = backbone.pipeline.components.values()
    others = sum(network_size(p) for p in parts if isinstance(p, nn.Module) and p is not backbone.denoiser)
    policies = Policies.of(backbone, recipe.adaptation, seed=0)
    trained = size(parameter for group in policies.groups().values() for parameter in group)
    average = trained if recipe.train.average else 0
    device = Device(
        frozen_bytes=frozen,
        others_bytes=others,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=2 * trained,
        average_bytes=average,
        total_bytes=frozen + others + 4 * trained + average,
    )
    return device, size(policies.weights().values())
