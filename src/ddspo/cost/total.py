"""All that a run takes: work, disk, main memory and accelerator memory."""

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import Doc

from ddspo.adaptations.base import Adaptation
from ddspo.cost._once import once
from ddspo.cost.memory import Device, PretrainingDevice, in_pretraining, in_training, others_bytes, texts_of
from ddspo.cost.shapes import BRANCHES, base_of, condition_shapes, model_outline, network_size, size
from ddspo.cost.stages import HALF, Counted, Stage, stages_of
from ddspo.cost.work import Work, count_work, flops_of
from ddspo.recipe import Recipe


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
    """Main memory while training, for each process"""

    model_bytes: Annotated[int, Doc("the whole model, while it is loaded")]
    waiting_bytes: Annotated[int, Doc("weights of the denoiser that wait there, with model.offload")]
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
    stages: tuple[Stage, ...]

    @property
    def most_bytes(self) -> int:
        """The accelerator's memory at the peak of the stage that takes most."""
        return max(stage.device_bytes for stage in self.stages)

    @property
    def most_host_bytes(self) -> int:
        """Main memory at the peak of the stage that takes most."""
        return max(stage.host_bytes for stage in self.stages)


def cost(recipe: Recipe) -> Cost:
    """Count what a recipe takes.

    Raises:
        InputError: The files of the model or of the evaluation cannot be read.
    """
    backbone = model_outline(recipe.model)
    condition = once(backbone, "condition", lambda: condition_shapes(backbone))
    others, flops = others_bytes(backbone), once(backbone, "flops", lambda: flops_of(backbone, condition))
    work = count_work(recipe, backbone, flops)
    latents = work.pairs * len(recipe.sides) * torch.Size(backbone.latent_shape).numel() * HALF
    beside, imitators = sum(others.values()), recipe.pretrain
    base, whole = base_of(backbone.denoiser, recipe.model), beside + network_size(backbone.denoiser)
    counted = Counted(recipe, backbone, condition, base, whole, beside, latents)
    pretraining = in_pretraining(recipe) if recipe.pretrains else None
    device = in_training(recipe, model_outline(recipe.model))
    stay = texts_of(others) if recipe.train.encode == "during" else 0
    return Cost(
        work=work,
        disk=Disk(
            pairs_bytes=latents
            * (1 + recipe.has_states * recipe.sample.states)
            * (1 + min(recipe.rounds, 1 + _kept(recipe))),
            pretraining_bytes=_disk(pretraining, imitators.adaptation, imitators.train.keep, BRANCHES * beside),
            checkpoints_bytes=_kept(recipe) * _checkpoint(device),
            aligned_bytes=_disk(device, recipe.adaptation, 0, beside),
            conditions_bytes=work.train_texts * size(condition.values()) if recipe.train.encode == "before" else 0,
        ),
        host=Host(
            model_bytes=whole,
            waiting_bytes=base.waits,
            latents_bytes=counted.window(recipe.train),
            others_bytes=beside - stay,
        ),
        device=device,
        pretraining=pretraining,
        stages=stages_of(counted, work, device, pretraining),
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
