"""Wrong labels: winner and loser of some pairs change places."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch

from ddspo import randomness
from ddspo.maths.pair import Pair
from ddspo.pairs.data import PairData
from ddspo.pairs.store import PairStore


@contextmanager
def exchanged(share: float, seed: int) -> Iterator[None]:
    """Inside, winner and loser of a fixed share of the pairs are exchanged as they are read."""
    take = PairStore.take

    def other(self: PairStore, rows: Sequence[int]) -> PairData:
        found = take(self, rows)
        draw = randomness.uniform([randomness.stable_seed(seed, name, "wrong label") for name in found.ids])
        wrong = (draw < share).view(-1, 1, 1, 1)
        win, lose = found.latents
        return replace(found, latents=Pair(torch.where(wrong, lose, win), torch.where(wrong, win, lose)))

    with patch.object(PairStore, "take", other):
        yield
