"""The states that a sampler visits, as the denoiser sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddspo.backbones._schedule import is_flow, stepping
from ddspo.backbones.base import Backbone


class Visited(NamedTuple):
    """K states of each of N samples, in the order in which they were visited.

    Attributes:
        times: On the model's clock, [N, K] float32.
        states: The noisy latents in model space, [N, K, *latent_shape], half precision.
    """

    times: Tensor
    states: Tensor

    def cpu(self) -> "Visited":
        """The same in main memory."""
        return Visited(self.times.cpu(), self.states.cpu())


@contextmanager
def visiting(backbone: Backbone, calls: Tensor) -> Iterator[Visited]:
    """Inside, one generation of N samples fills what is yielded.

    Every pipeline calls `scheduler.step(prediction, t, sample)` once a prediction. The sample is what the denoiser
    saw, but for the scale and the packing that the pipeline gave it.

    Args:
        backbone: What generates.
        calls: Which calls of the scheduler, counted from 0, see the states that are kept of each sample, [N, K].

    Raises:
        RuntimeError: The scheduler is called less often than that.
    """
    scheduler, number, shape = backbone.pipeline.scheduler, count(), backbone.latent_shape
    times = torch.full(calls.shape, torch.nan, device=backbone.device)
    visited = Visited(times, torch.empty(*calls.shape, *shape, device=backbone.device, dtype=torch.float16))
    step = scheduler.step

    def noted(prediction: Tensor, t: Tensor, sample: Tensor, *rest: Any, **options: Any) -> Any:
        rows, places = torch.nonzero(calls == next(number), as_tuple=True)
        if len(rows):
            seen = sample if is_flow(type(scheduler)) else scheduler.scale_model_input(sample, t)
            visited.times[rows, places] = torch.as_tensor(t, dtype=times.dtype, device=times.device)
            visited.states[rows, places] = backbone.unpack(seen)[rows].half()
        return step(prediction, t, sample, *rest, **options)

    with stepping(scheduler, noted):
        yield visited
    if times.isnan().any():
        raise RuntimeError(
            f"{type(scheduler).__name__}: {next(number)} calls, and {int(calls.max()) + 1} were expected"
        )
