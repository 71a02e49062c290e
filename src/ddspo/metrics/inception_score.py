"""How sure Inception is of what it sees, and of how many things (Salimans et al. 2016, arXiv 1606.03498).

It knows the 1000 classes of ImageNet alone and never sees a prompt: for what people ask of text-to-image models it
says little. The network is that of torch-fidelity, the statistics are torchmetrics'.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt
from typing_extensions import Doc

from ddspo.metrics._inception import OverInception
from ddspo.metrics._sets import enough
from ddspo.metrics._torchmetrics import Given, repeatable, sorted_rows
from ddspo.metrics.base import SetJudge, Shown


@dataclass(frozen=True)
class InceptionScore(OverInception):
    """exp(mean KL(p(class | image) || p(class))): mean over parts of the set, in each of which p(class) is its own."""

    title = "Inception score"

    splits: Annotated[int, Gt(0), Doc("parts of the set, which is shuffled first")] = 10

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the network."""
        with self.opened(device, "logits") as logits:

            def judge(images: Iterable[Shown]) -> dict[str, float]:
                found = logits(each.image for each in images)
                enough(len(found), 2 * self.splits, "inception_score")
                return self._score(found)

            yield judge

    def _score(self, logits: torch.Tensor) -> dict[str, float]:
        from torchmetrics.image.inception import InceptionScore as Measure

        with repeatable():
            measure = Measure(Given(logits), splits=self.splits)
            measure.update(sorted_rows(logits))
            mean, deviation = measure.compute()
        return {"inception_score": float(mean)} | ({"deviation": float(deviation)} if self.splits > 1 else {})
