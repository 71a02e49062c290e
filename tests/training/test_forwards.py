"""A step runs the forwards that its objective and policy pair ask for, and no others; `--cost` counts the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ddspo import components
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.cost.work import Flops, count_work
from ddspo.maths.pair import Pair
from ddspo.objectives.base import Branches, Objective
from ddspo.objectives.dspo_sdxl import DSPOSDXL
from ddspo.objectives.mapo import MaPO
from ddspo.objectives.sft import SFT
from ddspo.pairs.data import PairData
from ddspo.pairs.view import View
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.run_folder import RunFolder
from ddspo.schedules.linear import Linear
from ddspo.stages.train import Method, train
from ddspo.training.drawing import Drawing
from ddspo.training.fit import Fit
from ddspo.training.imitation import Imitators
from ddspo.training.optimisation import Optimisation
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step, survey

SCENES = Path(__file__).parents[2] / "recipes/scenes.yaml"
PROMPTS = ["a red cube", "two cats", "x", "dogs in rows"]
LORA = LoRA(rank=2, alpha=2)
SETTINGS = Optimisation(steps=2, batch=4, device_batch=2, lr=1e-9)
SEEN = 2 * 4
"""Pairs that all updates see."""
FORWARDS = {
    # of the policy and of frozen ones, a pair: both branches, both references, and the targets that are predicted
    "training_free": (2, 3),
    "forward_noise": (2, 2),
    "data_driven": (2, 4),
    # without a reference targets alone, and without losers half
    "training_free/mapo": (2, 2),
    "forward_noise/mapo": (2, 0),
    "data_driven/mapo": (2, 2),
    "training_free/sft": (1, 1),
    "forward_noise/sft": (1, 0),
    "data_driven/sft": (1, 1),
}
SURVEYED = ("kto", "dspo_sdxl")
"""They look at a batch once more."""
UNSCORED = [name for name in components.names(Objective) if not components.find(Objective, name)().needs.gap]


@pytest.fixture(autouse=True)
def no_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loop looks at once more, after the last update, is no part of these counts."""
    monkeypatch.setattr(Fit, "_look_again", lambda *_: None)


def data(backbone: SD) -> PairData:
    latents = Pair(*torch.randn(2, 4, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    return PairData([f"p{row}" for row in range(4)], PROMPTS, ["a", "b", "c", "d"], latents)


def counting(network: nn.Module) -> list[tuple[bool, int]]:
    """Of each forward of a network whether it had a gradient, and of how many latents it was."""
    rows: list[tuple[bool, int]] = []
    network.register_forward_pre_hook(lambda _, args: rows.append((torch.is_grad_enabled(), len(args[0]))))
    return rows


def with_winner_and_loser(folder: Path) -> None:
    other = SD.tiny()
    imitators = Imitators.of(other, LORA, Pair(1, 2))
    for who, behaviour in zip(("winner", "loser"), imitators.trained, strict=True):
        LORA.save(other, folder / who, behaviour)


@pytest.mark.parametrize("pair", ["training_free", "forward_noise", "data_driven"])
@pytest.mark.parametrize("name", UNSCORED)
def test_training_runs_what_is_asked_and_what_is_counted(name: str, pair: str, tmp_path: Path) -> None:
    """All of two updates of two micro-batches of two pairs."""
    overrides = [f"objective={name}", f"policy_pair={pair}", "force=true", "evaluate=null", "validation.every=0"]
    recipe = load(SCENES, [*overrides, "train.steps=2", "train.batch=4", "train.device_batch=2"])
    backbone, run = SD.tiny(), RunFolder(tmp_path)
    pretrained = LORA if pair == "data_driven" else None
    if pretrained:
        with_winner_and_loser(run.policies)
    method = Method(recipe.policy_pair, recipe.objective, LORA, pretrained=pretrained, force=True)
    rows = counting(backbone.denoiser)
    train(run, backbone, data(backbone), method, SETTINGS, 3, Accelerator(), Progress(speaks=False))
    policy, frozen = FORWARDS.get(f"{pair}/{name}", FORWARDS[pair])
    again = policy + frozen if name in SURVEYED else 0
    found = [sum(count for learns, count in rows if learns is which) for which in (True, False)]
    assert found == [SEEN * policy, SEEN * (frozen + again)]
    work = count_work(recipe, backbone, Flops(1, 0, 0))
    assert (work.policy_forwards, work.frozen_forwards) == (SEEN * policy, SEEN * frozen)
    assert work.survey_forwards == SEEN * again


@pytest.mark.parametrize("objective", [SFT(), MaPO()])
def test_without_a_reference_none_is_kept(objective: Objective, tmp_path: Path) -> None:
    """Full fine-tuning has the one network that it trains; where an anchor or a target asks for a reference, two."""
    method = Method(ForwardNoise(), objective, Full())
    assert method.policies(SD.tiny(), 0).behaviours == {}
    for other in (replace(method, drawing=Drawing(anchor=1)), replace(method, policy_pair=TrainingFree())):
        assert list(other.policies(SD.tiny(), 0).behaviours) == ["reference"]
    backbone = SD.tiny()
    rows = counting(backbone.denoiser)
    train(RunFolder(tmp_path), backbone, data(backbone), method, SETTINGS, 3, Accelerator(), Progress(speaks=False))
    assert sum(count for _, count in rows) == SEEN * (2 if objective.needs.lose else 1)
    assert (tmp_path / "aligned").is_dir()


@pytest.mark.parametrize(
    ("overrides", "sides"),
    [
        (["policy_pair=forward_noise"], ("win", "lose")),
        (["policy_pair=forward_noise", "objective=sft"], ("win",)),
        (["policy_pair=forward_noise", "objective={sdpo: {of: sft}}"], ("win",)),
        (["policy_pair=forward_noise", "objective={label_smoothing: {of: sft}}"], ("win", "lose")),
        (["policy_pair=data_driven", "objective=sft"], ("win", "lose")),  # its loser learns from losers
    ],
)
def test_losers_that_nobody_reads_are_not_sampled(overrides: list[str], sides: tuple[str, ...]) -> None:
    recipe = load(SCENES, [*overrides, "sample.pairs=10"])
    assert recipe.sides == sides
    assert recipe.samples == 10 * len(sides)


def view_of(backbone: SD, *, win: torch.Tensor) -> View:
    """Four pairs at four times; losers that are given."""
    x, noise = (torch.randn(4, *backbone.latent_shape, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    x0, t = Pair(win, x), torch.tensor([100, 400, 600, 900])
    x_t = x0.map(lambda latents: backbone.path.noise(latents, noise, t))
    degraded = backbone.encode(["a", "b", "c", "d"])
    return View(x0, Pair(noise, noise), t, x_t, backbone.encode(PROMPTS), degraded, backbone.path)


def test_omega_weighs_each_pair_and_not_their_mean() -> None:
    """mean(omega loss), with omega = t / T from .1 to .9 and noise that grows with t; not mean(omega) mean(loss)."""
    backbone = SD.tiny()
    view = view_of(backbone, win=torch.zeros(4, *backbone.latent_shape))
    louder = torch.tensor([1.0, 2, 4, 8]).view(-1, 1, 1, 1)
    view = replace(view, noise=view.noise.map(lambda x: louder * x))
    policies = Policies.of(backbone, LORA, seed=0, frozen=False)

    def loss(weight: Linear | None, rows: slice) -> float:
        drawing = Drawing(weight=weight) if weight else Drawing()
        some = {"x0": view.x0, "noise": view.noise, "x_t": view.x_t}
        part = replace(view, **{key: pair.map(lambda x: x[rows]) for key, pair in some.items()}, t=view.t[rows])
        part = replace(part, condition={key: value[rows] for key, value in view.condition.items()})
        return preference_step(policies, ForwardNoise(), SFT(), part, drawing).value.item()

    omega = Linear()
    each = torch.tensor([loss(None, slice(row, row + 1)) for row in range(4)])
    weights = omega(view.path.progress(view.t))
    whole = loss(omega, slice(None))
    assert whole == pytest.approx((weights * each).mean().item(), rel=1e-5)
    assert abs(whole - (weights.mean() * each.mean()).item()) > 0.1 * whole


@pytest.mark.parametrize("name", SURVEYED)
def test_a_survey_has_no_gradient_and_sees_what_the_step_sees(name: str) -> None:
    """The mean is a number for the step: what it is the mean of belongs to the very same noise, times and space."""
    backbone, objective = SD.tiny(), components.find(Objective, name)()
    policies = Policies.of(backbone, LORA, seed=0)
    with torch.no_grad():
        for parameter in policies.groups()["grad_norm"]:
            parameter += 0.1
    view = view_of(backbone, win=torch.randn(4, *backbone.latent_shape, generator=torch.Generator().manual_seed(5)))
    kept: list[Branches] = []

    class Watching(type(objective)):
        def __call__(self, seen: Branches) -> torch.Tensor:
            kept.append(seen)
            return super().__call__(seen)

    watching, drawing = Watching(), Drawing(error_space="x0")
    found = survey(policies, ForwardNoise(), watching, view, drawing)
    assert not found.requires_grad
    preference_step(policies, ForwardNoise(), watching, replace(view, mean=found.mean()), drawing)
    torch.testing.assert_close(watching.averaged(kept[0]), found)
    assert kept[0].mean == found.mean()
    assert kept[0].d.win.requires_grad


def test_a_mean_is_of_the_whole_update(tmp_path: Path) -> None:
    """Both micro-batches of an update get one number, the mean over all its pairs, and not the mean of their own."""
    kept: list[tuple[float, float]] = []

    class Watching(DSPOSDXL):
        def __call__(self, seen: Branches) -> torch.Tensor:
            kept.append((seen.mean.item(), self.averaged(seen).mean().item()))
            return super().__call__(seen)

    backbone, settings = SD.tiny(), replace(SETTINGS, lr=1e-3)
    method = Method(ForwardNoise(), Watching(), LORA)
    train(RunFolder(tmp_path), backbone, data(backbone), method, settings, 3, Accelerator(), Progress(speaks=False))
    (first, one), (second, other) = kept[2:]
    assert first == second == pytest.approx((one + other) / 2, rel=1e-5)
    assert abs(one - other) > 0.01 * first > 0
