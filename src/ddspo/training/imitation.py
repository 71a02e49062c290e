"""Winner and loser of a data-driven pair while they are trained: plain denoising of one side of the pairs each."""

from dataclasses import dataclass

from torch import Tensor, nn

from ddspo.adaptations.base import Adaptation, Behaviour
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Loss
from ddspo.pairs.view import View


@dataclass
class Imitators:
    """Two trained behaviours that share a base where the adaptation allows it, and nothing else.

    Attributes:
        backbone: Knows how to predict with a denoiser.
        adaptation: Which weights are trained.
        trained: The two.
        networks: One network that holds both, or one each; wrapped for distribution by the loop.
        frozen_networks: None.
    """

    backbone: Backbone
    adaptation: Adaptation
    trained: Pair[Behaviour]

    def __post_init__(self) -> None:
        own = self.trained.map(lambda behaviour: behaviour.network)
        self.networks: list[nn.Module] = [own.win] if own.win is own.lose else list(own)
        self.frozen_networks: list[nn.Module] = []

    @classmethod
    def of(cls, backbone: Backbone, adaptation: Adaptation, seeds: Pair[int]) -> "Imitators":
        """Fork a backbone's denoiser, on its own device."""
        return cls(backbone, adaptation, adaptation.fork(backbone, seeds))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Winner and loser are clipped each on its own, so that neither's progress depends on the other."""
        win, lose = self.trained.map(self.adaptation.parameters)
        return {"winner_grad_norm": win, "loser_grad_norm": lose}

    def weights(self) -> dict[str, Tensor]:
        """Trained weights of both."""
        parts = self.trained.map(self.adaptation.weights)._asdict().items()
        return {f"{side}/{name}": value for side, part in parts for name, value in part.items()}

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        for side, behaviour in self.trained._asdict().items():
            own = {name.removeprefix(f"{side}/"): value for name, value in weights.items() if name.startswith(side)}
            self.adaptation.restore(behaviour, own)

    def updated(self, step: int) -> None:
        """Nothing follows."""

    def predict(self, x_t: Pair[Tensor], t: Tensor, condition: Condition) -> Pair[Tensor]:
        """The winner's prediction for winning latents and the loser's for losing ones, with gradient."""
        with self.trained.win.open():
            win = self.backbone.predict(self.networks[0], x_t.win, t, condition)
        with self.trained.lose.open():
            lose = self.backbone.predict(self.networks[-1], x_t.lose, t, condition)
        return Pair(win, lose)


def imitation_step(imitators: Imitators, view: View) -> Loss:
    """|e_winner(x_win, c) - target|^2 + |e_loser(x_lose, c) - target|^2, means over dimensions and batch.

    The target is the forward process's own (eps, v), each side with its own noise.
    """
    prediction = imitators.predict(view.x_t, view.t, view.condition)
    errors = Pair(
        mean_square(prediction.win.float() - view.path.target(view.x0.win, view.noise.win, view.t)).mean(),
        mean_square(prediction.lose.float() - view.path.target(view.x0.lose, view.noise.lose, view.t)).mean(),
    )
    log = {"winner_loss": errors.win.detach(), "loser_loss": errors.lose.detach()}
    return Loss(errors.win + errors.lose, log)
