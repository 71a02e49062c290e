"""What a modifier is: an objective that changes what another one sees, or mixes its losses."""

from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor
from typing_extensions import Doc

from ddspo.objectives.base import Branches, Needs, Objective
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.base import PolicyPair


@dataclass(frozen=True)
class Modifier(Objective):
    """Has another objective inside, and needs, starts and refuses what that one does, unless it says more."""

    of: Annotated[Objective, Doc("the objective that it modifies")] = field(default_factory=Logistic)

    @property
    def needs(self) -> Needs:
        """Those of the other."""
        return self.of.needs

    @property
    def steady(self) -> bool:
        """As the other."""
        return self.of.steady

    def margin(self, seen: Branches) -> Tensor | None:
        """That of the other."""
        return self.of.margin(seen)

    def averaged(self, seen: Branches) -> Tensor:
        """What the other asks for."""
        return self.of.averaged(seen)

    def refuses(self, policy_pair: PolicyPair) -> str | None:
        """What the other does."""
        return self.of.refuses(policy_pair)
