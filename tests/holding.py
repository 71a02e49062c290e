"""What pairs come with, for tests of what needs it."""

from typing import NamedTuple

from ddspo.maths.pair import Pair


class Held(NamedTuple):
    """Of `ddspo.pairs.data.Holding`."""

    has_degraded: bool
    has_states: bool
    has_scores: bool
    has_labels: bool = False
    has_seeds: bool = True
    sides: tuple[str, ...] = Pair._fields


def holding(*, degraded: bool = False, states: bool = False, scores: bool = False) -> Held:
    """Sampled pairs that come with nothing else."""
    return Held(degraded, states, scores)
