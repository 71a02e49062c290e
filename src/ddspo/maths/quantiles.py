"""Where on the path a pair is looked at: inverse distribution functions of one uniform number.

Each maps u in [0, 1), [B] float64, to a place tau in [0, 1), [B], by a monotone function: if u is uniform, tau has
the named density. tau = 0 is data and tau = 1 noise; a path turns it into its own clock (`NoisePath.times`).
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

LARGEST = 1 - 2**-53
"""The largest float64 below 1."""


def logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """tau = sigmoid(mean + std Phi^-1(u)): logit(tau) is normal (Esser et al. 2024, arXiv 2403.03206, equation 19).

    Phi^-1(u) is standard normal; sigmoid is monotone, so quantiles go through: the median is sigmoid(mean).
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(u)).clamp(max=LARGEST)


def sigmoid(u: Tensor, slope: float, centre: float) -> Tensor:
    """A density on [0, 1] that rises logistically: proportional to 1 / (1 + exp(-k (tau - c))), k slope, c centre.

    The integral of sigmoid(k (x - c)) is S(k (x - c)) / k with S = softplus, so that
    F(tau) = (S(k (tau - c)) - S(-k c)) / (S(k (1 - c)) - S(-k c)). With y = S(-k c) + u (S(k (1 - c)) - S(-k c)) and
    S^-1(y) = log(e^y - 1) = y + log(1 - e^-y), tau = c + S^-1(y) / k.
    """
    low, high = (softplus(torch.as_tensor(slope * (end - centre), dtype=u.dtype)) for end in (0.0, 1.0))
    y = low + u * (high - low)
    return (centre + (y + torch.log(-torch.expm1(-y))) / slope).clamp(0, LARGEST)


def linear(u: Tensor) -> Tensor:
    """Density 2 (1 - tau): F(tau) = 1 - (1 - tau)^2, hence tau = 1 - sqrt(1 - u)."""
    return (1 - (1 - u).sqrt()).clamp(max=LARGEST)
