"""Activations: the most bytes that a stage's work holds at once beside the weights, of the true model's shapes.

Everything is run on the "meta" device: the very step of training, a forward of the denoiser, an encoding of texts, a
decoding of images. Counted are tensors, not an allocator's rounding nor what a kernel needs inside.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ddspo.adaptations.base import recompute_activations
from ddspo.backbones._autoencoder import at_once
from ddspo.backbones.base import DTYPES, Backbone, Model
from ddspo.conditions import Condition
from ddspo.cost._live import Accelerator, peak_of
from ddspo.objectives.base import Loss
from ddspo.training.optimisation import Optimisation


def autocast_of(model: Model) -> torch.dtype | None:
    """The precision of autocast in training, if it is on."""
    return None if model.dtype == "fp32" else DTYPES[model.dtype]


def of_step(
    step: Callable[[], Loss],
    networks: Sequence[nn.Module],
    trained: Sequence[nn.Parameter],
    how: Optimisation,
    model: Model,
) -> int:
    """Of one micro-batch: its noised pairs, frozen predictions, the policy's, and the backward pass.

    Gradients are among them, unless they are there already, of the micro-batch before.
    """
    dtype = autocast_of(model)
    if how.gradient_checkpointing:
        for network in networks:
            recompute_activations(network, lambda: Accelerator(dtype))
    for parameter in trained if how.batch > how.device_batch else ():
        parameter.grad = torch.empty_like(parameter)

    def run() -> None:
        with Accelerator(dtype):
            loss = step()
        torch.autograd.backward(loss.value)

    return peak_of(run)


def of_forwards(backbone: Backbone, condition: Condition, latents: int, dtype: torch.dtype | None = None) -> int:
    """Of predictions without gradient, for so many latents at once.

    Args:
        backbone: Whose denoiser predicts.
        condition: Of one text.
        latents: How many, the branches of guidance counted.
        dtype: Of autocast, if it is on.
    """

    def run() -> object:
        rows = {name: row.repeat(latents, *[1] * (row.ndim - 1)) for name, row in condition.items()}
        x, t = (torch.empty(latents, *shape, device="meta") for shape in (backbone.latent_shape, ()))
        with Accelerator(dtype), torch.no_grad():
            return x, backbone.predict(backbone.denoiser, x, t, rows)

    return peak_of(run)


def of_texts(backbone: Backbone, texts: int) -> int:
    """Of so many texts that are encoded at once."""

    def run() -> object:
        with Accelerator(None):
            return backbone.encode(["a prompt"] * texts)

    with FakeTensorMode(allow_non_fake_inputs=True):
        return peak_of(run)


def of_images(backbone: Backbone, images: int, *, encoded: bool = False) -> int:
    """Of so many latents that are decoded, or images that are encoded: some at a time, as `Autoencoder` does."""
    vae, height, width = backbone.autoencoder, backbone.call["height"], backbone.call["width"]
    count = min(images, at_once(height * width))

    def run() -> object:
        with Accelerator(None):
            if encoded:
                return vae.code(torch.empty(count, 3, height, width, device="meta"))
            return vae.decoded(torch.empty(count, *backbone.latent_shape, device="meta"))

    return peak_of(run)
