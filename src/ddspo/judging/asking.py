"""Asks a judge, whoever wants to know: what it said before is looked up, and it is loaded when it is first needed."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ddspo.errors import InputError
from ddspo.judging.ledger import Key, Ledger, ledger
from ddspo.judging.pictures import image_digest, row_digest
from ddspo.metrics.base import Judge, Measure, Metric, Score


@dataclass
class _Asked:
    """A judge that remembers: `open` loads the real one."""

    identity: str
    metric: Metric
    ledger: Ledger
    open: Callable[[], Judge]
    _judge: Judge | None = field(default=None, init=False)

    def __call__(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
        """One score an image, in order; equal images with equal rows are judged once."""
        keys = [self._key(*each) for each in zip(images, rows, strict=True)]
        known = self.ledger.known(self.identity, keys)
        left: dict[Key, int] = {}
        for place, key in enumerate(keys):
            if key not in known:
                left.setdefault(key, place)
        if left:
            self._judge = self._judge or self.open()
            places = [*left.values()]
            scores = self._judge([images[place] for place in places], [rows[place] for place in places])
            check(self.metric, scores)
            scored = [*zip(left, scores, strict=True)]
            self.ledger.keep(self.identity, scored)
            known |= dict(scored)
        return [known[key] for key in keys]

    def forget(self) -> None:
        """Let go of the real one, whoever holds this."""
        self._judge = None

    def _key(self, image: np.ndarray, row: Mapping[str, Any]) -> Key:
        return Key(image_digest(image), row_digest(row) if self.metric.reads_prompt else "")


@contextmanager
def asking(metric: Metric, device: torch.device) -> Iterator[Judge]:
    """A judge that looks up first; what it loaded is freed when the block ends.

    Args:
        metric: What judges.
        device: Where it computes.

    Raises:
        InputError: Weights cannot be had, or a score is no number.
    """
    with ledger() as kept, ExitStack() as stack:
        asked = _Asked(metric.identity(device), metric, kept, lambda: stack.enter_context(metric.open(device)))
        yield asked
        asked.forget()


def check(metric: Measure, scores: Sequence[Score]) -> None:
    """Refuse what is no score, before anything rests on it.

    Raises:
        InputError: One is not finite.
    """
    wrong = next((score.value for score in scores if not math.isfinite(score.value)), None)
    if wrong is not None:
        raise InputError(f"{metric.name}: scores {wrong}: use a judge with finite scores, or other weights for it")
