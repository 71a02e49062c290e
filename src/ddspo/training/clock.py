"""How long something takes, and the most memory of the accelerator that it takes."""

import time
from typing import ClassVar

import torch


class Clock:
    """Runs from when it is made. CUDA counts one peak, so a new clock ends what an older one sees of it."""

    _most: ClassVar[int] = 0

    def __init__(self, device: torch.device) -> None:
        self._device, self._began = device, time.perf_counter()
        if device.type == "cuda":
            Clock._most = max(Clock._most, torch.cuda.max_memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, float]:
        """Seconds, and on CUDA the most bytes that tensors held at once, in this process."""
        found: dict[str, float] = {"seconds": round(time.perf_counter() - self._began, 4)}
        if self._device.type == "cuda":
            found["peak_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return found

    @classmethod
    def peak(cls, device: torch.device) -> dict[str, float]:
        """The most bytes since this was asked last, whatever clocks were made meanwhile; nothing without CUDA."""
        if device.type != "cuda":
            return {}
        cls(device)
        most, cls._most = cls._most, 0
        return {"peak_bytes": most}
