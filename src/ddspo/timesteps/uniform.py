"""Every time as often as any other."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.timesteps.base import Timesteps


@dataclass(frozen=True)
class Uniform(Timesteps):
    """tau = u (DDSPO and Diffusion-DPO on SD 1.x and SDXL)."""

    def __call__(self, u: Tensor) -> Tensor:
        """u itself."""
        return u
