"""DMPO: a reverse divergence from an almost certain preference, which gives up pairs that are far off."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import Doc

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class DMPO(Link):
    """loss = KL(Bernoulli(sigma(u)) || Bernoulli(1 - alpha)) (Diffusion-DMPO; the form of Diffusion-SDPO's release).

    With p = sigma(u): p log(p / (1 - alpha)) + (1 - p) log((1 - p) / alpha). It is least, 0, at
    u = log((1 - alpha) / alpha), which is 4.6 for alpha = 0.01; its slope p (1 - p) (u - log((1 - alpha) / alpha)) is
    -1.15 at u = 0, 2.3 times that of the logistic loss, and vanishes where u is very negative. beta is the published
    one (2000 for SD 1.5, 6000 for SDXL).
    """

    alpha: Annotated[float, Gt(0), Lt(0.5), Doc("how much preference the losing side is to keep")] = 0.01

    def link(self, u: Tensor) -> Tensor:
        """KL of sigma(u) from 1 - alpha, in logarithms that stay finite."""
        p, log_p, log_q = u.sigmoid(), logsigmoid(u), logsigmoid(-u)
        return p * (log_p - math.log1p(-self.alpha)) + (1 - p) * (log_q - math.log(self.alpha))
