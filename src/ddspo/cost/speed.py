"""Hours of a run by its stages: from what was measured on this machine, or from a rate of operations."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ddspo.adaptations.base import recompute_activations
from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.cost._unchanged import unchanged
from ddspo.cost.activations import autocast_of
from ddspo.cost.shapes import BRANCHES, view_of
from ddspo.cost.total import Cost, cost
from ddspo.cost.work import pair_forwards
from ddspo.images import write_image
from ddspo.recipe import Recipe
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step, survey
from ddspo.training.validation import undisturbed

READS = 1e9
"""Bytes of weights that are assumed to be loaded in a second."""
TIMED = 2
"""Calls that are timed, after one that is not."""
SOME = 8
"""Texts that are encoded, and images that are decoded, at most."""


class Speed(NamedTuple):
    """Seconds that each takes.

    Attributes:
        load: Loading the model.
        text: Encoding a text.
        forward: One forward of one latent, while as many are sampled as the recipe says.
        pair: One pair in training: all its forwards, and its backward pass.
        image: Decoding and writing an image.
    """

    load: float
    text: float
    forward: float
    pair: float
    image: float


def seconds(found: Cost, speed: Speed) -> dict[str, float]:
    """Seconds of each stage by its name.

    Degrading is taken to be free. Judges are not timed, and have no entry.
    """
    return {
        each.name: each.loads * speed.load
        + each.texts * speed.text
        + each.forwards * speed.forward
        + each.trained_pairs * each.pair * speed.pair
        + each.images * speed.image
        for each in found.stages
        if each.name != "judge"
    }


def assumed(recipe: Recipe, flops_per_second: float, found: Cost | None = None) -> Speed:
    """The speed of a machine that sustains so many operations a second, and loads 1 GB of weights in one.

    Args:
        recipe: The run.
        flops_per_second: Floating point operations.
        found: The recipe's cost, where it was counted before.

    Raises:
        InputError: The files of the model or of the evaluation cannot be read.
    """
    known = found or cost(recipe)
    work = known.work
    forward = work.forward_flops / flops_per_second
    return Speed(
        load=known.host.model_bytes / READS,
        text=work.text_flops / flops_per_second,
        forward=forward,
        pair=forward * pair_forwards(recipe),
        image=work.image_flops / flops_per_second,
    )


def measured(recipe: Recipe, backbone: Backbone, load: float = 0.0) -> Speed:
    """The speed of a loaded model on its device, by a few forwards and steps; it is left as it was.

    Steps are the recipe's own, of `train.device_batch` pairs, on latents that are zero.

    Args:
        recipe: The run.
        backbone: Its model, on the device on which it will run.
        load: Seconds that loading it took.

    Raises:
        RuntimeError: The device has not the memory, as in training.
    """
    with undisturbed(backbone), torch.no_grad():
        prompts = ["a photo of a red cube on a blue sphere"] * SOME
        text = _clock(backbone, lambda: backbone.encode(prompts)) / SOME
        condition = backbone.encode(prompts[:1])
        image = _image(backbone, min(SOME, recipe.sample.batch))
        forward = _forward(backbone, condition, at_once(recipe, backbone))
    with unchanged(backbone):
        pair = _clock(backbone, _step(recipe, backbone, condition)) / recipe.train.device_batch
    return Speed(load, text, forward, pair, image)


def at_once(recipe: Recipe, backbone: Backbone) -> int:
    """Predictions that sampling makes in one call of the denoiser."""
    given = recipe.sample
    with sampling_with(backbone, given.scheduler, given.scheduler_options):
        steps, guidance = given.how(backbone)
        branches = backbone.evaluations(steps, guidance) // backbone.evaluations(steps, 1.0)
    return given.batch * (BRANCHES if given.labels else len(recipe.sides)) * branches


def _image(backbone: Backbone, count: int) -> float:
    latents = torch.zeros(count, *backbone.latent_shape, device=backbone.device)

    def make() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for number, image in enumerate(backbone.decode(latents)):
                write_image(Path(folder) / f"{number}.png", image)

    return _clock(backbone, make) / count


def _forward(backbone: Backbone, condition: Condition, count: int) -> float:
    rows = {name: row.repeat(count, *[1] * (row.ndim - 1)) for name, row in condition.items()}
    x = torch.zeros(count, *backbone.latent_shape, device=backbone.device)
    t = backbone.path.times(torch.full((count,), 0.5)).to(backbone.device)
    return _clock(backbone, lambda: backbone.predict(backbone.denoiser, x, t, rows)) / count


def _step(recipe: Recipe, backbone: Backbone, condition: Condition) -> Callable[[], None]:
    """A micro-step of training without its update; winner and loser, where there are any, cost what the base does."""
    frozen = bool(recipe.asked.frozen)
    policies = Policies.of(backbone, recipe.adaptation, seed=0, reference=recipe.reference, frozen=frozen)
    if recipe.pretrains:
        policies.behaviours |= dict.fromkeys(("winner", "loser"), policies.behaviours["reference"])
    if recipe.train.gradient_checkpointing:
        recompute_activations(policies.denoiser)
    view = view_of(backbone, recipe.draw, condition, recipe.train.device_batch)
    dtype = autocast_of(recipe.model)

    given = (policies, recipe.policy_pair, recipe.objective)

    def step() -> None:
        with torch.autocast(backbone.device.type, dtype, enabled=dtype is not None):
            mean = survey(*given, view, recipe.draw).mean() if recipe.objective.needs.mean else None
            loss = preference_step(*given, replace(view, mean=mean), recipe.draw)
        torch.autograd.backward(loss.value)

    return step


def _clock(backbone: Backbone, function: Callable[[], object]) -> float:
    """Seconds of a call, the shorter of two, after one that sets up kernels."""
    function()
    return min(_once(backbone, function) for _ in range(TIMED))


def _once(backbone: Backbone, function: Callable[[], object]) -> float:
    _wait(backbone)
    began = time.perf_counter()
    function()
    _wait(backbone)
    return time.perf_counter() - began


def _wait(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
