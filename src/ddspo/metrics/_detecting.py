"""What metrics share whose images a detector reads."""

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import Doc

from ddspo.detectors.base import Detector
from ddspo.metrics.base import Metric
from ddspo.weights import Weights


@dataclass(frozen=True)
class Detecting(Metric):
    """Judges what a detector finds: its images, weights and precision are the detector's."""

    detector: Annotated[Detector, Doc("who reads the images")]

    @property
    def side(self) -> int | None:
        """That of the detector."""
        return self.detector.side

    @property
    def weights(self) -> tuple[Weights, ...]:
        """Those of the detector."""
        return self.detector.weights

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of the detector."""
        return self.detector.dtype(device)
