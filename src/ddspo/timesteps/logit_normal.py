"""Middle times more often, by the logit-normal density of Stable Diffusion 3."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Interval, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.quantiles import logit_normal
from ddspo.timesteps.base import Timesteps


@dataclass(frozen=True)
class LogitNormal(Timesteps):
    """logit(tau) is normal, before any shift of the path (Esser et al. 2024, arXiv 2403.03206)."""

    mean: Annotated[float, Interval(ge=-10, le=10), Doc("of logit(tau); above 0 prefers noisy times")] = 0.0
    std: Annotated[float, Gt(0), Le(10), Doc("of logit(tau); smaller keeps closer to the median, sigmoid(mean)")] = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        """sigmoid(mean + std Phi^-1(u))."""
        return logit_normal(u, self.mean, self.std)
