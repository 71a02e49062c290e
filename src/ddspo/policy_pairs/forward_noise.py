"""The forward process as target: the same run becomes Diffusion-DPO."""

from dataclasses import dataclass

from ddspo.maths.pair import Pair
from ddspo.policy_pairs.base import PolicyPair, Side


@dataclass(frozen=True)
class ForwardNoise(PolicyPair):
    """target = the forward process's own (eps, or v) on both branches (Diffusion-DPO, arXiv 2311.12908).

    The target costs nothing.
    """

    sides = Pair(win=Side(None), lose=Side(None))
