"""One set of weights, several behaviours: what is in memory, what a switch leaves behind, and references that move."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from ddspo.adaptations.base import Adaptation, tuners
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import PolicyPair
from ddspo.policy_pairs.data_driven import DataDriven
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.reference_policies.base import Reference
from ddspo.reference_policies.ema import EMAReference
from ddspo.reference_policies.frozen import FrozenReference
from ddspo.reference_policies.refreshed import RefreshedReference
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.policies import Policies, Pretrained
from ddspo.training.steps import preference_step

LORA = LoRA(rank=2, alpha=2)
PROMPTS = ["a red cube", "two cats"]


@torch.no_grad()
def shake(parameters: Iterable[torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def pretrained(adaptation: Adaptation, folder: Path) -> Pretrained:
    """A random winner and loser on disk."""
    backbone = SD.tiny()
    trained = Imitators.of(backbone, adaptation, Pair(1, 2)).trained
    for seed, (who, behaviour) in enumerate(zip(("winner", "loser"), trained, strict=True)):
        shake(adaptation.parameters(behaviour), seed)
        adaptation.save(backbone, folder / who, behaviour)
    return Pretrained(adaptation, folder)


def view_of(backbone: SD) -> View:
    x = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))
    x0, noise, t = Pair(x, x.flip(0)), Pair(x.roll(1, 2), x.roll(1, 3)), torch.tensor([100, 700])
    x_t = Pair(*(backbone.path.noise(*each, t) for each in zip(x0, noise, strict=True)))
    return View(x0, noise, t, x_t, backbone.encode(PROMPTS), backbone.encode(["red", "cats"]), backbone.path)


def reachable(policies: Policies) -> int:
    """Elements of all distinct weights that the trained and frozen behaviours hold."""
    behaviours = [policies.trained, *policies.behaviours.values()]
    tensors = [each for behaviour in behaviours for each in behaviour.network.state_dict(keep_vars=True).values()]
    return sum({tensor.data_ptr(): tensor.numel() for tensor in tensors}.values())


def adapter(backbone: SD) -> int:
    return sum(value.numel() for value in LORA.weights(LORA.attach(backbone, 0).policy).values())


BASE = sum(parameter.numel() for parameter in SD.tiny().denoiser.parameters())
ONE = adapter(SD.tiny())


@pytest.mark.parametrize(("pair", "adapters"), [(TrainingFree(), 1), (ForwardNoise(), 1), (DataDriven(), 3)])
@pytest.mark.parametrize("reference", [FrozenReference(), EMAReference()])
def test_with_lora_the_base_exists_once(pair: PolicyPair, adapters: int, reference: Reference, tmp_path: Path) -> None:
    """One base whatever the pair, and one small adapter for each behaviour that is not the base."""
    made = pretrained(LORA, tmp_path) if "winner" in pair.policies else None
    policies = Policies.of(SD.tiny(), LORA, 0, made, reference)
    assert reachable(policies) == BASE + ONE * (adapters + reference.moves)


@pytest.mark.parametrize(
    ("policy", "pair", "bases", "adapters"), [(LORA, Full(), 3, 1), (Full(), LORA, 2, 2), (Full(), Full(), 4, 0)]
)
def test_full_fine_tuning_copies_only_what_differs(
    policy: Adaptation, pair: Adaptation, bases: int, adapters: int, tmp_path: Path
) -> None:
    """Policy, reference, winner and loser are four functions; those that are adapters cost no base of their own."""
    policies = Policies.of(SD.tiny(), policy, 0, pretrained(pair, tmp_path))
    assert reachable(policies) == BASE * bases + ONE * adapters


@pytest.mark.parametrize(("policy", "pair"), list(product([LORA, Full()], [LORA, Full()])))
def test_frozen_policies_are_what_was_saved(policy: Adaptation, pair: Adaptation, tmp_path: Path) -> None:
    """Whatever mixture: each predicts as a pipeline that read it from disk, also when the policy has moved."""
    made = pretrained(pair, tmp_path)
    backbone = SD.tiny()
    view = view_of(backbone)
    x_t, t, condition = view.x_t.win, view.t, view.condition
    policies = Policies.of(backbone, policy, 0, made)
    shake(policies.groups()["grad_norm"], 9)
    for who in ("reference", "winner", "loser"):
        plain = SD.tiny()
        if who != "reference":
            pair.load(plain, tmp_path / who)
        with torch.no_grad():
            expected = plain.predict(plain.denoiser, x_t, t, condition)
        torch.testing.assert_close(policies.frozen(x_t, t, condition, who=who), expected, rtol=1e-4, atol=1e-5)


def state(policies: Policies) -> list[object]:
    layers: list[BaseTunerLayer] = tuners(policies.denoiser)
    return [
        *((list(layer.active_adapters), layer.disable_adapters) for layer in layers),
        *(parameter.requires_grad for parameter in policies.denoiser.parameters()),
    ]


def test_a_switch_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """Nested and broken off in the middle, too; flags that were set by hand stay as well."""
    policies = Policies.of(SD.tiny(), LORA, 0, pretrained(LORA, tmp_path), EMAReference())
    next(policies.denoiser.parameters()).requires_grad_(True)
    LORA.parameters(policies.trained)[0].requires_grad_(False)
    before = state(policies)
    assert [["default"], False] in [list(each) for each in before if isinstance(each, tuple)]
    for who, behaviour in policies.behaviours.items():
        with pytest.raises(ZeroDivisionError), behaviour.open(), policies.behaviours["winner"].open():
            _ = 1 / int(state(policies) == before)
        assert state(policies) == before, who


def test_opened_behaviours_nest(tmp_path: Path) -> None:
    policies = Policies.of(SD.tiny(), LORA, 0, pretrained(LORA, tmp_path))
    with policies.behaviours["winner"].open():
        inside = state(policies)
        with policies.behaviours["reference"].open():
            pass
        assert state(policies) == inside


@pytest.mark.parametrize("adaptation", [LORA, Full()])
def test_gradient_at_the_start(adaptation: Adaptation, tmp_path: Path) -> None:
    """Of a data-driven pair, by hand: at the start d = 0, u = 0 and sigma(-u) = 1/2; so with B pairs of D elements

    dL/de_win = sigma(0) beta / (D B) (0 - a_win) = -beta / (2 D B) (e_winner - e_ref)(x_win, c), and
    dL/de_lose = +beta / (2 D B) (e_loser - e_ref)(x_lose, c):
    towards what the winner has learned on one side, and away from what the loser has learned on the other.
    """
    beta, backbone = 7.0, SD.tiny()
    view = view_of(backbone)
    policies = Policies.of(backbone, adaptation, 0, pretrained(adaptation, tmp_path))
    predictions: list[torch.Tensor] = []

    def keep(*given: object) -> torch.Tensor:
        predictions.append(Policies.policy(policies, *given))  # type: ignore[arg-type]
        predictions[-1].retain_grad()
        return predictions[-1]

    policies.policy = keep  # type: ignore[method-assign, assignment]
    preference_step(policies, DataDriven(), Logistic(beta), view).value.backward()
    gradient = predictions[0].grad
    assert gradient is not None
    grad = Pair(*gradient.chunk(2))
    scale = beta / (2 * view.x_t.win.numel())
    for side, who, sign in (("win", "winner", -1), ("lose", "loser", 1)):
        x_t = getattr(view.x_t, side)
        learned = policies.frozen(x_t, view.t, view.condition, who=who)
        gap = learned - policies.frozen(x_t, view.t, view.condition)
        assert gap.abs().max() > 0.01
        torch.testing.assert_close(getattr(grad, side), sign * scale * gap, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("adaptation", [LORA, Full()])
def test_imitation_is_plain_denoising_of_either_side(adaptation: Adaptation) -> None:
    """Loss = MSE(e(x_win), eps_win) + MSE(e(x_lose), eps_lose), and neither side's gradient knows of the other.

    The winner's gradient is therefore that of a lone network trained on the winners.
    """
    backbone, alone = SD.tiny(), SD.tiny()
    view = view_of(backbone)
    imitators = Imitators.of(backbone, adaptation, Pair(1, 2))
    assert len(imitators.networks) == (1 if adaptation is LORA else 2)
    lone = Imitators.of(alone, adaptation, Pair(1, 2))
    for each in (imitators, lone):
        shake(each.groups()["winner_grad_norm"], 5)
        shake(each.groups()["loser_grad_norm"], 6)
    loss = imitation_step(imitators, view)
    loss.value.backward()
    errors = {}
    for side, behaviour in lone.trained._asdict().items():
        with behaviour.open() as network:
            prediction = alone.predict(network, getattr(view.x_t, side), view.t, view.condition)
        errors[side] = (prediction - getattr(view.noise, side)).square().mean()
    torch.testing.assert_close(loss.value, errors["win"] + errors["lose"])
    torch.testing.assert_close(loss.log["loser_loss"], errors["lose"])
    errors["win"].backward()
    for mine, other in zip(imitators.groups()["winner_grad_norm"], lone.groups()["winner_grad_norm"], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in lone.groups()["loser_grad_norm"])


def test_the_first_step_of_imitation_by_hand() -> None:
    """A network that predicts zero has the mean square of the noise as its loss: 4 on one side, 9 on the other."""
    backbone = SD.tiny()
    with torch.no_grad():
        backbone.denoiser.conv_out.weight.zero_()
        backbone.denoiser.conv_out.bias.zero_()
    view = view_of(backbone)
    noise = Pair(torch.full_like(view.x0.win, 2.0), torch.full_like(view.x0.win, -3.0))
    view = View(view.x0, noise, view.t, view.x_t, view.condition, view.degraded, view.path)
    loss = imitation_step(Imitators.of(backbone, LORA, Pair(1, 2)), view)
    assert (loss.log["winner_loss"].item(), loss.log["loser_loss"].item()) == pytest.approx((4.0, 9.0))
    assert loss.value.item() == pytest.approx(13.0)


def test_an_average_follows() -> None:
    """decay 0.75 from 0 towards 4, 4, 8: 1, 1.75, 3.3125."""
    reference = [torch.zeros(1, dtype=torch.float64)]
    seen = []
    for step, policy in enumerate((4.0, 4.0, 8.0), start=1):
        EMAReference(decay=0.75).follow(step, reference, [torch.tensor([policy], dtype=torch.float64)])
        seen.append(reference[0].item())
    assert seen == [1.0, 1.75, 3.3125]


def test_a_refreshed_reference_waits() -> None:
    """every 2: the policy of update 2 is the reference of updates 3 and 4, that of update 4 from then on."""
    reference = [torch.zeros(1)]
    seen = []
    for step in range(1, 6):
        RefreshedReference(every=2).follow(step, reference, [torch.tensor([float(step)])])
        seen.append(reference[0].item())
    assert seen == [0, 2, 2, 4, 4]
    assert RefreshedReference(every=2).check(3) is None
    assert "never reached in 2 updates" in (RefreshedReference(every=2).check(2) or "")


@pytest.mark.parametrize("adaptation", [LORA, Full()])
def test_a_moving_reference_is_the_policy_it_follows(adaptation: Adaptation, tmp_path: Path) -> None:
    """After a refreshment the margin is zero again, under the degraded prompt too.

    Winner and loser stay where they are, and the state goes through a checkpoint.
    """
    backbone = SD.tiny()
    view = view_of(backbone)
    x_t, t = view.x_t.win, view.t
    policies = Policies.of(backbone, adaptation, 0, pretrained(adaptation, tmp_path), RefreshedReference(every=2))
    winner = policies.frozen(x_t, t, view.condition, who="winner")
    base = policies.frozen(x_t, t, view.condition)
    shake(policies.groups()["grad_norm"], 9)
    policies.updated(1)
    torch.testing.assert_close(policies.frozen(x_t, t, view.condition), base)
    policies.updated(2)
    for condition in (view.condition, view.degraded):
        moved = policies.policy(x_t, t, condition).detach()
        torch.testing.assert_close(policies.frozen(x_t, t, condition), moved)
    assert (policies.frozen(x_t, t, view.condition) - base).abs().max() > 0.01
    torch.testing.assert_close(policies.frozen(x_t, t, view.condition, who="winner"), winner)
    kept = {name: value.clone() for name, value in policies.weights().items()}
    shake(policies.groups()["grad_norm"], 10)
    policies.updated(4)
    policies.restore(kept)
    torch.testing.assert_close(
        policies.frozen(x_t, t, view.condition), policies.policy(x_t, t, view.condition).detach()
    )
    assert all(torch.equal(value, kept[name]) for name, value in policies.weights().items())


def test_an_unknown_policy_is_named() -> None:
    backbone = SD.tiny()
    view = view_of(backbone)
    with pytest.raises(ValueError, match="no frozen policy 'winner': only reference"):
        Policies.of(backbone, LORA, 0).frozen(view.x_t.win, view.t, view.condition, who="winner")
