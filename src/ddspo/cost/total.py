"""All that a run takes: work, disk, main memory and accelerator memory."""

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import Doc

from ddspo.adaptations.base import Adaptation
from ddspo.cost.memory import (
    BRANCHES,
    Device,
    Parts,
    PretrainingDevice,
    in_pretraining,
    in_training,
    model_outline,
    others_bytes,
    size,
)
from ddspo.cost.work import Work, condition_shapes, count_work, forward_flops
from ddspo.pairs.store import GIB
from ddspo.recipe import Recipe

HALF = 2
"""Bytes of a number of a stored latent."""


@dataclass(frozen=True)
class Disk:
    """Disk"""

    pairs_bytes: Annotated[int, Doc("latents and states of pairs/ and of what is kept of rounds/, half precision")]
    pretraining_bytes: Annotated[int, Doc("winner and loser of a data-driven pair, and their checkpoints")]
    checkpoints_bytes: Annotated[int, Doc("checkpoints/: trained weights and optimizer states, as many as are kept")]
    aligned_bytes: Annotated[int, Doc("aligned/")]
    conditions_bytes: Annotated[
        int, Doc("encoded texts while training, at most; none with train.encode=during; best kept in main memory too")
    ]


@dataclass(frozen=True)
class Host:
    """Main memory, for each process"""

    latents_bytes: Annotated[int, Doc("pairs held at once, with their states where these are trained on")]
    others_bytes: Annotated[int, Doc("text encoders and autoencoder that wait there while nothing needs them")]


@dataclass(frozen=True)
class Cost:
    """What one run takes; `pretraining` where the policy pair has a winner and a loser, which must be made."""

    work: Work
    disk: Disk
    host: Host
    device: Device
    pretraining: PretrainingDevice | None


def cost(recipe: Recipe) -> Cost:
    """Count what a recipe takes.

    Raises:
        InputError: The files of the model or of the evaluation cannot be read.
    """
    backbone = model_outline(recipe.model)
    with torch.device("meta"):
        condition = condition_shapes(backbone)
        work = count_work(recipe, backbone, forward_flops(backbone, condition))
    latents = work.pairs * len(recipe.sides) * torch.Size(backbone.latent_shape).numel() * HALF
    read = 1 + (recipe.states if recipe.draw.states == "visited" else 0)
    others = others_bytes(backbone)
    beside, stay = sum(others.values()), Parts(0, others).beside(recipe.train.encode)
    imitators = recipe.pretrain
    pretraining = in_pretraining(recipe) if recipe.pretrains else None
    device = in_training(recipe, backbone)
    return Cost(
        work=work,
        disk=Disk(
            pairs_bytes=latents * (1 + recipe.states) * (1 + min(recipe.rounds, 1 + _kept(recipe))),
            pretraining_bytes=_disk(pretraining, imitators.adaptation, imitators.train.keep, BRANCHES * beside),
            checkpoints_bytes=_kept(recipe) * _checkpoint(device),
            aligned_bytes=_disk(device, recipe.adaptation, 0, beside),
            conditions_bytes=work.train_texts * size(condition.values()) if recipe.train.encode == "before" else 0,
        ),
        host=Host(latents_bytes=min(latents * read, int(recipe.train.window * GIB)), others_bytes=beside - stay),
        device=device,
        pretraining=pretraining,
    )


def _disk(device: Device | None, adaptation: Adaptation, checkpoints: int, rest: int) -> int:
    """What training leaves: checkpoints, and results, with the rest of their pipelines where these are whole."""
    if device is None:
        return 0
    return checkpoints * _checkpoint(device) + device.trained_bytes + (rest if adaptation.saves_pipeline else 0)


def _kept(recipe: Recipe) -> int:
    """Checkpoints: the newest, and the best where there are scores."""
    return recipe.train.keep + int(bool(recipe.validation.every and recipe.validation.scored))


def _checkpoint(device: Device) -> int:
    return device.trained_bytes + device.average_bytes + device.optimizer_bytes
