"""What an adaptation is: it makes a denoiser trainable, gives back the reference, and saves the result."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ddspo.backbones.base import Backbone

Reference = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the frozen reference; on leaving, the denoiser is exactly as it was."""


class Adaptation(ABC):
    """How a denoiser is trained."""

    saves_pipeline: ClassVar[bool]
    """Whether `save` writes the whole pipeline or the trained weights alone."""

    @abstractmethod
    def attach(self, backbone: Backbone, seed: int) -> Reference:
        """Make a backbone's denoiser trainable in place and say how to reach the reference."""

    @abstractmethod
    def weights(self, denoiser: Any) -> dict[str, Tensor]:
        """The trained weights, by name."""

    @abstractmethod
    def restore(self, denoiser: Any, weights: dict[str, Tensor]) -> None:
        """Put trained weights back."""

    @abstractmethod
    def save(self, backbone: Backbone, folder: Path) -> None:
        """Write the trained weights as an ordinary diffusers artifact."""

    @abstractmethod
    def load(self, backbone: Backbone, folder: Path) -> None:
        """Read what `save` wrote, as any user of diffusers would."""
