"""Forward processes: how data become noise, and what a network is asked to predict on the way."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


class NoisePath(ABC):
    """x_t between data and noise, on a model's own clock."""

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Map u in [0, 1), [B], to the model's clock, [B]."""

    @abstractmethod
    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t for data x0 [B, ...], noise eps [B, ...] and times t [B]."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect network would predict if it knew x0 and eps, in its own prediction space, [B, ...]."""


@dataclass(frozen=True)
class DDPM(NoisePath):
    """x_t = alpha_t x_0 + sigma_t eps with alpha_t^2 = alphas_cumprod[t], sigma_t^2 = 1 - alpha_t^2 (Ho et al. 2020).

    Attributes:
        alphas_cumprod: The scheduler's training schedule, [T].
        prediction: 'epsilon', or 'v_prediction' for v = alpha_t eps - sigma_t x_0 (Salimans and Ho 2022).

    Raises:
        ValueError: The prediction type is another one.
    """

    alphas_cumprod: Tensor
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction type {self.prediction!r}: only 'epsilon' and 'v_prediction' are supported")

    def times(self, u: Tensor) -> Tensor:
        """t = floor(u T)."""
        steps = len(self.alphas_cumprod)
        return (u * steps).long().clamp(max=steps - 1)

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        alpha, sigma = self._coefficients(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps, or v = alpha_t eps - sigma_t x_0."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self._coefficients(t, x0)
        return alpha * eps - sigma * x0

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        square = self.alphas_cumprod.to(t.device)[t].to(torch.promote_types(like.dtype, torch.float32))
        square = square.view(-1, *[1] * (like.ndim - 1))
        return square.sqrt().to(like.dtype), (1 - square).sqrt().to(like.dtype)
