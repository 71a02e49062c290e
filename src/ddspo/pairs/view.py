"""A noised batch of pairs, as a step sees it."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.maths.paths import NoisePath


@dataclass(frozen=True)
class View:
    """One noised batch of B pairs: latents x0, the noise and times of both branches, x_t, and the two conditions.

    `degraded` is empty where the step does not read it, or the pairs have no degraded prompts. `label` (+1 wanted, -1
    unwanted) is of single samples, which are the winning side; `gap` is the score of the winner minus that of the
    loser; both are [B]. `mean` is what the objective wanted the mean of, over the whole batch of the update.
    """

    x0: Pair[Tensor]
    noise: Pair[Tensor]
    t: Tensor
    x_t: Pair[Tensor]
    condition: Condition
    degraded: Condition
    path: NoisePath
    label: Tensor | None = None
    gap: Tensor | None = None
    mean: Tensor | None = None

    @property
    def one_latent(self) -> bool:
        """Whether both branches look at the very same noised latent."""
        return self.x_t.win is self.x_t.lose
