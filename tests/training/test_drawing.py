"""How pairs are drawn and weighed: spaces, noise, prompts, one latent and its anchor, by hand and through the step."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from ddspo import randomness
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow
from ddspo.maths.reward import inner, margin, mean_square
from ddspo.objectives.base import Branches, branches
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.base import Supervision
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.text_preference import TextPreference
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.schedules.constant import Constant
from ddspo.schedules.exponential import Exponential
from ddspo.schedules.linear import Linear as LinearWeight
from ddspo.schedules.sigmoid import Sigmoid
from ddspo.timesteps.linear import Linear
from ddspo.training.batches import Batches
from ddspo.training.drawing import PLAIN, Drawing, anchor, check_drawing, in_space
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step
from ddspo.training.texts import EncodedTexts

BETA = 50.0
PROMPTS = ["a red cube", "two cats", "x", "a red cube", "dogs in rows", "two cats"]
CPU = torch.device("cpu")


def tensors(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(count)]


def u_in(space: str, path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    p_win, p_lose, r_win, r_lose, t_win, t_lose = tensors(6)
    supervision = Supervision(Pair(r_win, r_lose), Pair(t_win, t_lose))
    seen = in_space(branches(Pair(p_win, p_lose), supervision), path, space, t)  # type: ignore[arg-type]
    return margin(seen.d, seen.a, BETA)


def test_x0_errors_of_a_flow_are_sigma_times_those_of_v() -> None:
    """x_0 = x_t - sigma v at one x_t: every squared error, and with it u, is sigma^2 times that of v."""
    path = RectifiedFlow(shift=3.0)
    t = path.times(torch.tensor([0.1, 0.5, 0.9, 0.99])).double()
    torch.testing.assert_close(u_in("x0", path, t), (t / 1000) ** 2 * u_in("v", path, t), rtol=1e-12, atol=1e-12)
    assert torch.equal(u_in("v", path, t), u_in("native", path, t))


def test_x0_errors_of_ddpm_by_hand() -> None:
    """x_0 = (x_t - sigma eps) / alpha: alpha^2 = 0.8, 0.5, 0.2, 0.1 give factors sigma^2 / alpha^2 = 1/4, 1, 4, 9."""
    path = DDPM(torch.tensor([0.8, 0.5, 0.2, 0.1], dtype=torch.float64))
    t = torch.arange(4)
    factor = torch.tensor([0.25, 1, 4, 9], dtype=torch.float64)
    torch.testing.assert_close(u_in("x0", path, t), factor * u_in("native", path, t), rtol=1e-12, atol=1e-12)


def test_the_anchor_holds_d_where_its_docstring_says() -> None:
    """With one latent softplus(-beta <d, g>) + lambda |d|^2 is stationary at d = beta sigma(-u) / (2 lambda) g.

    With s = sigma(-u) that is d = k g with k = beta s / (2 lambda), hence lambda = beta s / (2 k); k = 1/4 here.
    """
    (g,) = tensors(1)
    d = (0.25 * g[:1]).requires_grad_(True)
    u = BETA * inner(d, g[:1])
    loss = softplus(-u).mean()
    strength = (BETA * torch.sigmoid(-u) / (2 * 0.25)).detach()
    zero = torch.zeros_like(d)
    loss = loss + (strength * anchor(Branches(Pair(d, d), Pair(zero, zero)))).mean()
    loss.backward()
    assert d.grad is not None
    assert d.grad.abs().max() < 1e-15


def test_the_anchor_by_hand() -> None:
    """d_win = (1, 1), d_lose = (3, 1): (1 + 5) / 2 = 3."""
    zero = torch.zeros(1, 2)
    d = Pair(torch.ones(1, 2), torch.tensor([[3.0, 1.0]]))
    assert anchor(Branches(d, Pair(zero, zero))).item() == 3


@pytest.fixture(scope="module")
def backbone() -> SD:
    return SD.tiny()


@pytest.fixture(scope="module")
def batches(backbone: SD, tmp_path_factory: pytest.TempPathFactory) -> Batches:
    degraded = [f"no {index}" for index in range(6)]
    latents = Pair(*torch.randn(2, 6, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    data = PairData([f"p{row}" for row in range(6)], PROMPTS, degraded, latents)
    conditions = EncodedTexts(backbone, [*PROMPTS, *degraded], tmp_path_factory.mktemp("conditions"))
    return Batches(data, conditions, 4, 7, backbone.path)


ROWS = [(row, visit) for visit in range(2) for row in range(6)]


def test_times_go_through_the_named_density(batches: Batches) -> None:
    plain = batches.view(ROWS, CPU)
    u = randomness.uniform([randomness.stable_seed(7, f"p{row}@{visit}", "time") for row, visit in ROWS])
    assert torch.equal(plain.t, (1000 * u).long())
    other = replace(batches, drawing=Drawing(timesteps=Linear())).view(ROWS, CPU)
    assert torch.equal(other.t, (1000 * (1 - (1 - u).sqrt())).long())
    assert torch.equal(other.noise.win, plain.noise.win)


def test_independent_noise_changes_the_loser_only(batches: Batches) -> None:
    shared = batches.view(ROWS, CPU)
    own = replace(batches, drawing=Drawing(noise="independent")).view(ROWS, CPU)
    assert torch.equal(shared.noise.win, shared.noise.lose)
    assert torch.equal(own.x_t.win, shared.x_t.win)
    assert inner(own.noise.win, own.noise.lose).abs().max() < 0.3
    torch.testing.assert_close(own.x_t.lose, batches.path.noise(own.x0.lose, own.noise.lose, own.t))


@pytest.mark.parametrize(("latents", "side"), [("winner", "win"), ("loser", "lose")])
def test_one_latent_with_a_noise_for_each_branch(batches: Batches, latents: str, side: str) -> None:
    """Two states of one latent: each is what its own noise makes of it, and the step runs both branches on them."""
    both = replace(batches, drawing=Drawing(noise="independent")).view(ROWS, CPU)
    view = replace(batches, drawing=Drawing(latents=latents, noise="independent")).view(ROWS, CPU)
    own = getattr(both.x0, side)
    assert not view.one_latent
    assert torch.equal(view.x0.win, own)
    for one, noise in zip(view.x_t, both.noise, strict=True):
        torch.testing.assert_close(one, batches.path.noise(own, noise, view.t))
    assert replace(batches, drawing=Drawing(latents=latents)).view(ROWS, CPU).one_latent


def texts(batches: Batches, rows: list[tuple[int, int]]) -> list[int]:
    names = [f"{batches.data.ids[row]}@{visit}" for row, visit in rows]
    u = randomness.uniform([randomness.stable_seed(7, name, "time") for name in names])
    return batches.rows_of_prompts(rows, batches.path.times(u))


def test_other_prompts_are_others_each_as_likely(batches: Batches) -> None:
    """Four distinct prompts: each of the three others with probability 1/3, never the own one.

    Of n = 1800 draws a share of 1/3 has standard deviation sqrt(2/9 / 1800) = 0.0111.
    """
    always = replace(batches, drawing=Drawing(other_prompts=Constant(1.0)))
    rows = [(0, visit) for visit in range(1800)]
    chosen = [PROMPTS[row] for row in texts(always, rows)]
    assert PROMPTS[0] not in chosen
    for prompt in set(PROMPTS) - {PROMPTS[0]}:
        assert chosen.count(prompt) / 1800 == pytest.approx(1 / 3, abs=0.045)


@pytest.mark.parametrize("schedule", [Constant(0.4), Sigmoid(), Exponential()])
def test_other_prompts_come_with_the_probability_of_their_time(batches: Batches, schedule) -> None:  # type: ignore[no-untyped-def]
    """The number of changed pairs is a sum of independent draws: mean sum p, variance sum p (1 - p)."""
    drawn = replace(batches, drawing=Drawing(other_prompts=schedule))
    rows = [(row, visit) for visit in range(400) for row in range(6)]
    names = [f"p{row}@{visit}" for row, visit in rows]
    t = batches.path.times(randomness.uniform([randomness.stable_seed(7, name, "time") for name in names]))
    p = schedule(batches.path.progress(t))
    changed = torch.tensor([row != given for row, (given, _) in zip(texts(drawn, rows), rows, strict=True)])
    assert abs(changed.sum() - p.sum()) < 4 * (p * (1 - p)).sum().sqrt()
    late = p > p.median()
    if not isinstance(schedule, Constant):
        assert changed[late].sum() > 5 * changed[~late].sum()


def test_a_changed_pair_keeps_its_latents_and_gets_both_prompts(batches: Batches) -> None:
    always = replace(batches, drawing=Drawing(other_prompts=Constant(1.0)))
    plain, view = batches.view(ROWS, CPU), always.view(ROWS, CPU)
    assert torch.equal(view.x_t.win, plain.x_t.win)
    for place, row in enumerate(texts(always, ROWS)):
        for condition, table in ((view.condition, always.data.prompts), (view.degraded, always.data.degraded)):
            expected = always.conditions.of([table[row]], CPU)["encoder_hidden_states"][0]
            assert torch.equal(condition["encoder_hidden_states"][place], expected)


def test_what_is_drawn_does_not_depend_on_who_draws(batches: Batches) -> None:
    drawn = replace(batches, drawing=Drawing(other_prompts=Constant(0.5), noise="independent"))
    whole, part = drawn.view(ROWS, CPU), drawn.view(ROWS[3:5], CPU)
    for name in ("condition", "degraded"):
        mine, theirs = getattr(part, name), getattr(whole, name)
        assert all(torch.equal(rows, theirs[key][3:5]) for key, rows in mine.items())
    assert torch.equal(part.x_t.lose, whole.x_t.lose[3:5])


def test_another_seed_draws_everything_anew(batches: Batches) -> None:
    """Order, times, noise of both sides, and whose prompts a pair gets."""
    drawing = Drawing(other_prompts=Constant(0.5), noise="independent")
    one, again, other = (replace(batches, drawing=drawing, seed=seed) for seed in (7, 7, 8))
    assert [one.rows(step) for step in range(6)] == [again.rows(step) for step in range(6)]
    assert [one.rows(step) for step in range(6)] != [other.rows(step) for step in range(6)]
    mine, same, theirs = (each.view(ROWS, CPU) for each in (one, again, other))
    for side in ("win", "lose"):
        assert torch.equal(getattr(mine.noise, side), getattr(same.noise, side))
        assert inner(getattr(mine.noise, side), getattr(theirs.noise, side)).abs().max() < 0.3
    assert (mine.t != theirs.t).sum() > 9
    assert texts(one, ROWS) != texts(other, ROWS)


def moved(backbone: SD) -> Policies:
    policies = Policies.of(SD.tiny(), LoRA(), seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policies.groups()["grad_norm"]:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policies


def test_one_latent_costs_one_policy_and_two_frozen_predictions(backbone: SD, batches: Batches) -> None:
    """In place of two and three; u = beta <d, g>, and the anchor adds lambda |d|^2."""
    drawing = Drawing(latents="winner", anchor=3.0)
    view = replace(batches, drawing=drawing).view(ROWS[:4], CPU)
    policies = moved(backbone)
    rows: list[tuple[bool, int]] = []
    hook = policies.denoiser.register_forward_pre_hook(
        lambda _, args: rows.append((torch.is_grad_enabled(), len(args[0])))
    )
    loss = preference_step(policies, TrainingFree(), Logistic(beta=BETA), view, drawing)
    loss.value.backward()
    assert rows == [(False, 2 * 4), (True, 4)]
    hook.remove()
    reference = policies.frozen(view.x_t.win, view.t, view.condition)
    d = (policies.policy(view.x_t.win, view.t, view.condition) - reference).detach()
    g = reference - policies.frozen(view.x_t.win, view.t, view.degraded)
    expected = softplus(-BETA * inner(d, g)).mean() + 3 * mean_square(d).mean()
    torch.testing.assert_close(loss.value.detach(), expected, rtol=1e-4, atol=1e-5)


def test_weights_follow_time_in_the_step(backbone: SD, batches: Batches) -> None:
    """At the start each pair's loss is log 2, so the loss is log 2 times the mean of t / T."""
    view = batches.view(ROWS[:4], CPU)
    policies = Policies.of(SD.tiny(), LoRA(), seed=0)
    loss = preference_step(policies, TrainingFree(), Logistic(), view, Drawing(weight=LinearWeight()))
    expected = 0.6931472 * (view.t / 1000).mean()
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_error_space_scales_the_gap_in_the_step(backbone: SD, batches: Batches) -> None:
    view = batches.view(ROWS[:1], CPU)
    policies = Policies.of(SD.tiny(), LoRA(), seed=0)
    logs = [
        preference_step(policies, TrainingFree(), Logistic(), view, Drawing(error_space=space)).log
        for space in ("native", "x0")
    ]
    square = batches.path.alphas_cumprod[view.t]  # type: ignore[attr-defined]
    assert (logs[1]["gap"] / logs[0]["gap"]).item() == pytest.approx(((1 - square) / square).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("drawing", "pair", "prompts", "message"),
    [
        (Drawing(other_prompts=Constant(1.5)), TrainingFree(), "ab", "draw.other_prompts: a probability of 1.5"),
        (Drawing(other_prompts=Sigmoid()), TrainingFree(), "aa", "draw.other_prompts: there is one prompt only"),
        (Drawing(other_prompts=Constant(0.1)), ForwardNoise(), "ab", "draw.other_prompts: forward_noise knows"),
        (Drawing(latents="winner"), ForwardNoise(), "ab", "draw.latents: with forward_noise"),
        (Drawing(states="visited"), ForwardNoise(), "ab", "draw.states: forward_noise follows the noise"),
        (PLAIN, TextPreference(), "ab", "draw.latents: text_preference compares two prompts of one image"),
        (Drawing(latents="loser"), TextPreference(), "ab", "draw.latents: text_preference compares two prompts"),
        (Drawing(states="visited", noise="generating"), TrainingFree(), "ab", "draw.noise: visited states hold"),
        (Drawing(states="visited", noise="independent"), TrainingFree(), "ab", "draw.noise: visited states hold"),
    ],
)
def test_options_that_contradict_one_another(drawing: Drawing, pair, prompts: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        check_drawing(drawing, pair, list(prompts))
    assert str(caught.value).startswith(message)
    check_drawing(Drawing(latents="winner") if pair.sides.lose.degraded else PLAIN, pair, ["a"])
