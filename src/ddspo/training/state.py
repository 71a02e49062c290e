"""All that a resumed run needs, from memory to a checkpoint and back, whether weights are whole or in shares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn

from ddspo.agreement import alone
from ddspo.training import optimizers, sharding
from ddspo.training.average import Average
from ddspo.training.checkpoints import Checkpoints, deep, flat


class Weights(Protocol):
    """Who has the trained weights."""

    def weights(self) -> dict[str, Tensor]:
        """Everything beside the optimizer that a resumed run needs, by name."""
        ...

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        ...


@dataclass
class State:
    """What a checkpoint holds.

    Attributes:
        parameters: All that are trained, in the optimizer's order.
        average: Their moving average, if there is one.
        shares: Whether each process has a share of each, and writes it.
    """

    checkpoints: Checkpoints
    trained: Weights
    optimizer: Any
    parameters: list[nn.Parameter]
    average: Average | None
    accelerator: Accelerator
    shares: bool

    def write(self, step: int, log: str, best: Callable[[], int | None]) -> None:
        """Write a checkpoint, and drop all but the newest and the best; all processes call it together."""
        if self.shares:
            self.checkpoints.write_shares(step, self._parts(), log)
        else:
            alone(lambda: self.checkpoints.write(step, self._parts(), log))
        alone(lambda: self.checkpoints.prune(best()))

    def restore(self, step: int, done: int) -> None:
        """Put back weights and their average after update `step`, of which so many were made."""
        weights = self._read(step, "weights", self.trained.weights() if self.shares else None)
        self.trained.restore(weights)
        if self.average:
            average = self._read(step, "average", self.average.state() if self.shares else None)
            self.average.restore(average, done)

    def restore_optimizer(self, step: int) -> None:
        """Put back what the optimizer keeps, and a gradient scaler."""
        room = None
        if self.shares:
            room = sharding.like_parameters(self.checkpoints.shapes(step, "optimizer"), self.parameters)
        optimizers.put_back(self.optimizer, deep(self._read(step, "optimizer", room)))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(deep(self.checkpoints.read(step, "scaler")))

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        parts = {"weights": self.trained.weights(), "optimizer": flat(optimizers.kept(self.optimizer))}
        parts |= {"average": self.average.state()} if self.average else {}
        return parts | ({"scaler": flat(self.accelerator.scaler.state_dict())} if self.accelerator.scaler else {})

    def _read(self, step: int, part: str, shares: dict[str, Tensor] | None) -> dict[str, Tensor]:
        return self.checkpoints.read(step, part) if shares is None else self.checkpoints.read_into(step, part, shares)
