"""The moving average of the trained weights: what is saved where a decay is given."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Average:
    """s <- m s + (1 - m) w after update n, with m = min(decay, n / (n + 9)), and s = w after the first.

    This is `diffusers.training_utils.EMAModel`; its growing decay soon forgets the weights of the start.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters = list(parameters)
        self._model = EMAModel(self._parameters, decay=decay)

    def follow(self) -> None:
        """Take in the weights of one more update."""
        self._model.step(self._parameters)

    def state(self) -> dict[str, Tensor]:
        """The averages, by number of the parameter."""
        return {str(index): value for index, value in enumerate(self._model.shadow_params)}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Put back the averages after `step` updates."""
        for index, value in enumerate(self._model.shadow_params):
            value.copy_(state[str(index)])
        self._model.optimization_step = step

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in place of the weights; afterwards the weights are back, to the last bit."""
        self._model.store(self._parameters)
        self._model.copy_to(self._parameters)
        try:
            yield
        finally:
            self._model.restore(self._parameters)
