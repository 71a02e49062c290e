"""IPO: the margin is pulled to one half, and not beyond."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class IPO(Link):
    """loss = (u - 1/2)^2 (Azar et al. 2023, arXiv 2310.12036): a finite optimum, where the logistic one has none.

    The published loss is (h - 1 / (2 tau))^2 of the unscaled log-ratio h = 2 u / beta. With tau = beta / 2 its optimum
    is this one, and it is 4 / beta^2 times this loss. The loss starts at 1/4.
    """

    def link(self, u: Tensor) -> Tensor:
        """(u - 1/2)^2."""
        return (u - 0.5).square()
