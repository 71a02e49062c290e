"""Who supplies what, by hand: frozen policies that add numbers, on latents and noise that are all different."""

from dataclasses import replace

import pytest
import torch

from ddspo.conditions import Condition
from ddspo.maths.pair import Pair
from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow
from ddspo.pairs.view import View
from ddspo.policy_pairs.data_driven import DataDriven
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.text_preference import TextPreference
from ddspo.policy_pairs.training_free import TrainingFree

WHO = {"reference": 1000.0, "winner": 2000.0, "loser": 3000.0}
ALPHA = torch.tensor([0.96, 0.8, 0.6])
DDPM_V = DDPM(ALPHA.square(), "v_prediction")


def frozen(x_t: torch.Tensor, t: torch.Tensor, condition: Condition, who: str = "reference") -> torch.Tensor:
    """Latent + 10 times the time + the condition + the policy's number."""
    return x_t + (10 * t + condition["c"])[:, None] + WHO[who]


def view_of(path: NoisePath, *, one_latent: bool = False) -> View:
    """Two pairs of latents 1, 2 and 3, 4, of noise 5, 6 and 7, 8, at times 1 and 2, of conditions 100 and 200."""
    column = [torch.tensor([[float(first)], [float(first + 1)]]) for first in (1, 3, 5, 7)]
    x0, noise, t = Pair(column[0], column[1]), Pair(column[2], column[3]), torch.tensor([1, 2])
    x_t = Pair(path.noise(x0.win, noise.win, t), path.noise(x0.lose, noise.lose, t))
    x_t = Pair(x_t.win, x_t.win) if one_latent else x_t
    condition, degraded = {"c": torch.tensor([100.0, 200.0])}, {"c": torch.tensor([300.0, 400.0])}
    return View(x0, noise, t, x_t, condition, degraded, path)


@pytest.mark.parametrize("one_latent", [False, True])
def test_training_free(one_latent: bool) -> None:
    """Both references and the winner's target under the prompt; the loser's target under the degraded one."""
    view = view_of(DDPM_V, one_latent=one_latent)
    given, target = TrainingFree().supervise(frozen, view)
    prompt, degraded = torch.tensor([[1110.0], [1220.0]]), torch.tensor([[1310.0], [1420.0]])
    torch.testing.assert_close(torch.cat(given), torch.cat([view.x_t.win + prompt, view.x_t.lose + prompt]))
    torch.testing.assert_close(torch.cat(target), torch.cat([view.x_t.win + prompt, view.x_t.lose + degraded]))


@pytest.mark.parametrize("one_latent", [False, True])
def test_data_driven(one_latent: bool) -> None:
    """All under the prompt; the winner on the winning side, the loser on the losing one."""
    view = view_of(DDPM_V, one_latent=one_latent)
    given, target = DataDriven().supervise(frozen, view)
    extra = torch.tensor([[110.0], [220.0]])
    torch.testing.assert_close(torch.cat(given), 1000 + torch.cat([view.x_t.win + extra, view.x_t.lose + extra]))
    torch.testing.assert_close(
        torch.cat(target), torch.cat([view.x_t.win + 2000 + extra, view.x_t.lose + 3000 + extra])
    )


def test_text_preference() -> None:
    """v = 0.8 x 5 - 0.6 x 1 and 0.6 x 6 - 0.8 x 2 of the winner's latent and noise, on both sides; c- to lose."""
    view = view_of(DDPM_V, one_latent=True)
    view = replace(view, x0=Pair(view.x0.win, view.x0.win), noise=Pair(view.noise.win, view.noise.win))
    given, target = TextPreference().supervise(frozen, view)
    prompt, degraded = torch.tensor([[1110.0], [1220.0]]), torch.tensor([[1310.0], [1420.0]])
    torch.testing.assert_close(torch.cat(given or ()), torch.cat([view.x_t.win + prompt, view.x_t.win + degraded]))
    for side in target:
        torch.testing.assert_close(side, torch.tensor([[3.4], [2.0]]))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (DDPM(ALPHA.square()), [[5, 6], [7, 8]]),
        (DDPM_V, [[0.8 * 5 - 0.6 * 1, 0.6 * 6 - 0.8 * 2], [0.8 * 7 - 0.6 * 3, 0.6 * 8 - 0.8 * 4]]),
        (RectifiedFlow(), [[4, 4], [4, 4]]),
    ],
    ids=["epsilon", "v", "flow"],
)
def test_forward_noise(path: NoisePath, expected: list[list[float]]) -> None:
    """eps, alpha eps - sigma x_0 with (alpha, sigma) = (0.8, 0.6) and (0.6, 0.8), or eps - x_0: each side's own."""
    view = view_of(path)
    given, target = ForwardNoise().supervise(frozen, view)
    prompt = torch.tensor([[1110.0], [1220.0]])
    torch.testing.assert_close(torch.cat(given), torch.cat([view.x_t.win + prompt, view.x_t.lose + prompt]))
    torch.testing.assert_close(torch.stack(target)[..., 0], torch.tensor(expected, dtype=torch.float32))
