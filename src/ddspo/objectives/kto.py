"""Diffusion-KTO: every sample is wanted or not, and is weighed against the mean of the batch."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.objectives.base import Branches, Margin, Needs
from ddspo.policy_pairs.base import PolicyPair


@dataclass(frozen=True)
class KTO(Margin):
    """loss = 1 - sigma(y (R - z)) of each sample, z = max(mean of R, 0) held fixed (Diffusion-KTO, arXiv 2404.04465).

    y is +1 for a wanted sample and -1 for an unwanted one; of a pair, the loss is the mean of winner and loser. The
    mean of R runs over all samples of an update, of all processes and micro-batches, which are predicted once more
    before it. beta here is twice the published one (default 1000 there). The loss starts at 1/2.
    """

    @property
    def needs(self) -> Needs:
        """The mean of R; single samples will do."""
        return Needs(mean=True, label=True)

    def __call__(self, seen: Branches) -> Tensor:
        """1 - sigma(y (R - z))."""
        assert seen.mean is not None
        z, (win, lose) = seen.mean.clamp(min=0), self.rewards(seen)
        if seen.label is not None:
            return (-seen.label * (win - z)).sigmoid()
        return ((z - win).sigmoid() + (lose - z).sigmoid()) / 2

    def averaged(self, seen: Branches) -> Tensor:
        """R of each sample, or the mean of a pair's two."""
        win, lose = self.rewards(seen)
        return win if seen.label is not None else (win + lose) / 2

    def margin(self, seen: Branches) -> Tensor:
        """R_win - R_lose of a pair; y R of a single sample."""
        win, lose = self.rewards(seen)
        return win - lose if seen.label is None else seen.label * win

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """A winning target that is the reference makes R_win = -(beta / 2)|d|^2."""
        inert = "a winner's reward is at most 0 there, and nothing can be wanted: use forward_noise or data_driven"
        return inert if policy_pair.still else None
