"""Which parts of a pipeline are on the accelerator while its denoiser is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ddspo.backbones.base import Backbone

RESTING = torch.device("cpu")
"""Where parts are that nothing needs for now."""
TEXTS = "text_encoder"
"""How the names of text encoders begin in a pipeline."""


def other_parts(backbone: Backbone) -> dict[str, nn.Module]:
    """The networks beside the denoiser by their names in the pipeline: text encoders, autoencoder."""
    parts = backbone.pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module) and part is not backbone.denoiser}


def rest(backbone: Backbone, *, texts: bool, denoiser: bool = False) -> None:
    """Move the autoencoder, and the text encoders unless `texts` are still to be encoded, to main memory.

    The denoiser too if asked for: from there each process takes its share of it.
    """
    if denoiser:
        _move(backbone.denoiser, RESTING)
    for name, part in other_parts(backbone).items():
        if not (texts and name.startswith(TEXTS)):
            _move(part, RESTING)


@contextmanager
def awake(backbone: Backbone) -> Iterator[None]:
    """Inside, all parts are where the denoiser is, so that it can sample; afterwards each is where it was."""
    before = [(part, _place(part)) for part in other_parts(backbone).values()]
    try:
        for part, _ in before:
            _move(part, backbone.device)
        yield
    finally:
        for part, place in before:
            _move(part, place)


def _place(part: nn.Module) -> torch.device:
    return next(part.parameters()).device


def _move(part: nn.Module, device: torch.device) -> None:
    part.to(device)
