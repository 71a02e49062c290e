"""Forward processes: how data become noise, and what a network is asked to predict on the way."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
Space = Literal["native", "epsilon", "x0", "v"]
"""In which quantity an error is measured; 'native' is what the network itself predicts."""


class NoisePath(ABC):
    """x_t = alpha_t x_0 + sigma_t eps between data and noise, on a model's own clock."""

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Map u in [0, 1), [B], to the model's clock, [B]; more noise for greater u."""

    @abstractmethod
    def progress(self, t: Tensor) -> Tensor:
        """How far the clock has run: t / T in [0, 1], [B] float32 or better."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, [B] each, float32 or better."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect network would predict if it knew x0 and eps, in its own prediction space, [B, ...]."""

    @property
    @abstractmethod
    def space(self) -> Literal["epsilon", "v"]:
        """What 'native' means here."""

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps for data x0 [B, ...], noise eps [B, ...] and times t [B]."""
        alpha, sigma = self._broadcast(t, x0)
        return alpha * x0 + sigma * eps

    def noise_in(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """eps = (x_t - alpha_t x_0) / sigma_t, the inverse of `noise`."""
        alpha, sigma = self._broadcast(t, x0)
        return (x_t - alpha * x0) / sigma

    def error_weight(self, space: Space, t: Tensor) -> Tensor:
        """|delta in space|^2 / |delta in the native space|^2 of two predictions at one x_t, [B].

        At a fixed x_t, x_0 = const - sigma_t v and eps = const + alpha_t v on both kinds of path, hence
        |delta x_0| = sigma_t |delta v| and |delta eps| = alpha_t |delta v|. A change of prediction space is this
        factor and nothing else, as long as policy, reference and target are read at the same x_t. It is infinite
        where a network that predicts eps is asked at alpha_t = 0.
        """
        alpha, sigma = self.coefficients(t)
        squares = {"v": torch.ones_like(sigma), "x0": sigma.square(), "epsilon": alpha.square()}
        return squares[self.space if space == "native" else space] / squares[self.space]

    def _broadcast(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 1))
        alpha, sigma = self.coefficients(t)
        return alpha.view(shape).to(like.dtype), sigma.view(shape).to(like.dtype)


@dataclass(frozen=True)
class DDPM(NoisePath):
    """alpha_t^2 = alphas_cumprod[t], sigma_t^2 = 1 - alpha_t^2, t = 0 ... T - 1 (Ho et al. 2020).

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

    @property
    def space(self) -> Literal["epsilon", "v"]:
        """'epsilon' or 'v'."""
        return "epsilon" if self.prediction == "epsilon" else "v"

    def times(self, u: Tensor) -> Tensor:
        """t = floor(u T)."""
        steps = len(self.alphas_cumprod)
        return (u * steps).long().clamp(max=steps - 1)

    def progress(self, t: Tensor) -> Tensor:
        """t / T, below 1."""
        return t.float() / len(self.alphas_cumprod)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alphas_cumprod[t]) and sqrt(1 - alphas_cumprod[t]), t rounded where a sampler stops in between."""
        table = self.alphas_cumprod
        square = table.to(t.device, torch.promote_types(table.dtype, torch.float32))[t.round().long()]
        return square.sqrt(), (1 - square).sqrt()

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps, or v = alpha_t eps - sigma_t x_0."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self._broadcast(t, x0)
        return alpha * eps - sigma * x0


@dataclass(frozen=True)
class RectifiedFlow(NoisePath):
    """alpha_t = 1 - sigma, sigma_t = sigma = t / T, and the network predicts v = eps - x_0 (Liu et al. 2022).

    Attributes:
        shift: How far times are moved towards noise, as at inference: sigma = shift u / (1 + (shift - 1) u)
            (Esser et al. 2024, equation 23); 1 leaves them.
        steps: T, the clock of the model at pure noise.
        end: Where inference ends: shifted sigmas are stretched from 0 ... 1 onto end ... 1 (`shift_terminal`).
        even: Whether the clock stays where it was, t = T u, and sigma alone is moved, as in CogView4.

    Raises:
        ValueError: The shift is not positive, or the end is not within 0 and 1.
    """

    shift: float = 1.0
    steps: int = 1000
    end: float = 0.0
    even: bool = False

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"flow shift {self.shift}: it must be positive")
        if not 0 <= self.end < 1:
            raise ValueError(f"flow end {self.end}: it must be at least 0, and below 1")

    @property
    def space(self) -> Literal["epsilon", "v"]:
        """'v'."""
        return "v"

    def times(self, u: Tensor) -> Tensor:
        """t = T sigma, float32, with u not below 1 / T, the first step of the schedulers: sigma stays in (0, 1]."""
        u = u.double().clamp(min=1 / self.steps, max=1)
        return (self.steps * u if self.even else self._moved(u, self.steps)).float()

    def progress(self, t: Tensor) -> Tensor:
        """t / T, which is sigma unless the clock is even."""
        return t.to(torch.promote_types(t.dtype, torch.float32)) / self.steps

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - sigma and sigma."""
        sigma = self._moved(self.progress(t), 1) if self.even else self.progress(t)
        return 1 - sigma, sigma

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = eps - x_0."""
        return eps - x0

    def _moved(self, u: Tensor, steps: int) -> Tensor:
        """T sigma of even times u, for any T."""
        shifted = steps * self.shift * u / (1 + (self.shift - 1) * u)
        return self.end * steps + (1 - self.end) * shifted
