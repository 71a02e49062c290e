"""One image, two prompts: the noise that was added is to be told better under the prompt than under a poorer one."""

from dataclasses import dataclass

from ddspo.maths.pair import Pair
from ddspo.policy_pairs.base import PolicyPair, Side


@dataclass(frozen=True)
class TextPreference(PolicyPair):
    """target = the forward process's own on both branches; policy and reference read c to win, c- to lose.

    (TDPO, arXiv 2509.25771.) Both branches look at one noised winning image (`draw.latents: winner`), so that the
    margin compares how well either text explains it: R_win is its implicit reward under c, R_lose that under c-. It
    serves captioned images as well as those sampled with the prompt, and needs no preferences.
    """

    sides = Pair(win=Side(None), lose=Side(None, degraded=True))
