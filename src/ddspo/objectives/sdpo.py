"""Modifier: the loser's gradient is scaled down until it cannot raise the winner's error (Diffusion-SDPO)."""

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.maths.reward import inner, mean_square
from ddspo.objectives._modifier import Modifier
from ddspo.objectives.base import Branches, Needs
from ddspo.policy_pairs.base import PolicyPair

TINY = 1e-6
"""Of |e_win| |e_lose|: an inner product of less counts as none."""


@dataclass(frozen=True)
class SDPO(Modifier):
    """The gradient of e_lose times lambda = min(1, (1 - mu) |e_win|^2 / <e_win, e_lose>), 1 if <e_win, e_lose> <= 0.

    (Diffusion-SDPO, arXiv 2511.03317.) Values, u among them, stay as they are. To first order in the outputs the step
    then lowers the winner's error by at least mu of what it would without a loser. Here lambda is of each pair, where
    the release has one number a micro-batch, and the small number in it is relative to the errors. mu is the published
    one (.9 for SD 1.5, .6 for SDXL).
    """

    mu: Annotated[float, Ge(0), Le(1), Doc("safety: 1 leaves nothing of a loser that pulls the winner along")] = 0.9

    @property
    def needs(self) -> Needs:
        """Those of the other; a single sample has no loser to hold back."""
        return super().needs._replace(label=False)

    def __call__(self, seen: Branches) -> Tensor:
        """The other objective, with a loser that is held back."""
        safe = self._safety(seen).view(-1, *[1] * (seen.d.lose.ndim - 1))
        still = seen.d.lose.detach()
        return self.of(replace(seen, d=Pair(seen.d.win, still + safe * (seen.d.lose - still))))

    def _safety(self, seen: Branches) -> Tensor:
        """lambda, [B]."""
        win, lose = (each.detach() for each in seen.e)
        together, own = inner(win, lose), mean_square(win)
        bound = ((1 - self.mu) * own / together).clamp(max=1)
        return bound.where(together > TINY * (own * mean_square(lose)).sqrt(), 1.0)

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """A winner whose error is its displacement leaves nothing of the loser; and some know no loser."""
        if not self.of.needs.lose:
            return "the objective inside reads no loser, and nothing is changed: use that alone"
        if policy_pair.still:
            return "the winner has no error at the start, and as soon as it has one the loser, all the signal, is off"
        return super().refuses(policy_pair)
