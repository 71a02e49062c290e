"""Both paths against diffusers' own schedulers, and their identities in float64."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow


def setup(prediction: str) -> tuple[DDPMScheduler, DDPM, torch.Tensor, torch.Tensor, torch.Tensor]:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 4, 8, 8, generator=generator)
    return scheduler, DDPM(scheduler.alphas_cumprod, prediction), x0, eps, torch.tensor([0, 1, 250, 500, 998, 999])


def test_noise_is_the_schedulers() -> None:
    scheduler, path, x0, eps, t = setup("epsilon")
    torch.testing.assert_close(path.noise(x0, eps, t), scheduler.add_noise(x0, eps, t))
    assert torch.equal(path.target(x0, eps, t), eps)


def test_v_is_the_schedulers() -> None:
    scheduler, path, x0, eps, t = setup("v_prediction")
    torch.testing.assert_close(path.target(x0, eps, t), scheduler.get_velocity(x0, eps, t))


def test_data_and_noise_come_back_from_v() -> None:
    """x_0 = alpha x_t - sigma v and eps = sigma x_t + alpha v, because alpha^2 + sigma^2 = 1."""
    scheduler, path, x0, eps, t = setup("v_prediction")
    path = DDPM(scheduler.alphas_cumprod.double(), "v_prediction")
    x0, eps = x0.double(), eps.double()
    x_t, v = path.noise(x0, eps, t), path.target(x0, eps, t)
    square = scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    torch.testing.assert_close(alpha * x_t - sigma * v, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps, rtol=1e-12, atol=1e-12)


def test_times_cover_the_schedule() -> None:
    _, path, *_ = setup("epsilon")
    assert path.times(torch.tensor([0.0, 0.0009, 0.001, 0.5, 0.9999999])).tolist() == [0, 0, 1, 500, 999]
    assert sorted(set(path.times(torch.arange(4000) / 4000).tolist())) == list(range(1000))


def test_other_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="'sample'"):
        DDPM(torch.ones(3), "sample")  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_identities(shift: float) -> None:
    """x_0 = x_t - sigma v and eps = x_t + (1 - sigma) v; at sigma = 1 there is noise only."""
    path = RectifiedFlow(shift)
    x0, eps, t = flow_data()
    x_t, v = path.noise(x0, eps, t), path.target(x0, eps, t)
    sigma = (t / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t - sigma * v, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_t + (1 - sigma) * v, eps, rtol=1e-12, atol=1e-12)
    assert torch.equal(x_t[-1], eps[-1])
    assert torch.equal(path.progress(t), t / 1000)


def test_flow_noise_is_the_schedulers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x0, eps, _ = flow_data()
    t = scheduler.timesteps[[999, 700, 400, 100, 1, 0]]
    expected = scheduler.scale_noise(x0.float(), t, eps.float())
    torch.testing.assert_close(RectifiedFlow(3.0).noise(x0.float(), eps.float(), t), expected)


def test_flow_times_are_shifted_as_at_inference() -> None:
    """The scheduler's grid is u = 1/1000 ... 1, shifted; u = 0 stays at its first point.

    With shift 3, u = 1/2 becomes 3/2 / (1 + 1) = 3/4.
    """
    grid = torch.arange(1, 1001, dtype=torch.float64) / 1000
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.testing.assert_close(RectifiedFlow(3.0).times(grid), scheduler.timesteps.flip(0), rtol=1e-5, atol=0)
    assert RectifiedFlow(3.0).times(torch.tensor([0.5])).tolist() == [750.0]
    assert RectifiedFlow(1.0).times(torch.tensor([0.0, 0.5])).tolist() == [1.0, 500.0]
    assert RectifiedFlow(7.0).times(torch.tensor([0.999999999999])).item() <= 1000.0


def test_an_even_clock_has_the_same_noise_at_the_same_place() -> None:
    """t = 1000 u, and sigma = 3 u / (1 + 2 u): 3/4 at u = 1/2. Only the clock differs from that of other flows."""
    u = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    even, other = RectifiedFlow(3.0, end=0.02, even=True), RectifiedFlow(3.0, end=0.02)
    assert even.times(u).tolist() == [1.0, 250.0, 500.0, 900.0, 1000.0]
    torch.testing.assert_close(even.progress(even.times(u)), even.times(u) / 1000)
    for ours, theirs in zip(*(path.coefficients(path.times(u)) for path in (even, other)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert RectifiedFlow(3.0, even=True).coefficients(torch.tensor([500.0]))[1].tolist() == [0.75]


def flow_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x0, eps = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x0, eps, torch.tensor([1.0, 20.0, 250.0, 500.0, 998.5, 1000.0], dtype=torch.float64)


def test_progress_of_ddpm_is_a_part_of_the_schedule() -> None:
    _, path, *_ = setup("epsilon")
    assert path.progress(torch.tensor([0, 500, 999])).tolist() == pytest.approx([0, 0.5, 0.999])


PATHS = {
    "epsilon": DDPM(DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod.double(), "epsilon"),
    "v_prediction": DDPM(DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod.double(), "v_prediction"),
    "flow": RectifiedFlow(3.0),
    "flow of an even clock": RectifiedFlow(3.0, even=True),
}


@pytest.mark.parametrize("native", PATHS)
def test_another_prediction_space_is_only_a_weight(native: str) -> None:
    """Two predictions at one x_t, converted by solving x_t = alpha x_0 + sigma eps with the definition of v."""
    path = PATHS[native]
    x_t, first, second = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([1, 400, 990]) if "flow" not in native else torch.tensor([1.0, 400.0, 990.0], dtype=torch.float64)
    one, two = converted(native, path, x_t, first, t), converted(native, path, x_t, second, t)
    for space in ("epsilon", "x0", "v"):
        found = path.error_weight(space, t) * (first - second).square().flatten(1).sum(1)
        expected = (one[space] - two[space]).square().flatten(1).sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert path.error_weight("native", t).tolist() == [1, 1, 1]


def converted(
    native: str, path: NoisePath, x_t: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor
) -> dict[str, torch.Tensor]:
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in path.coefficients(t))
    if native == "epsilon":
        x0 = (x_t - sigma * prediction) / alpha
    elif native == "v_prediction":  # x_t = alpha x_0 + sigma (v + sigma x_0) / alpha
        x0 = (x_t - sigma * prediction / alpha) / (alpha + sigma**2 / alpha)
    else:  # x_t = (1 - sigma) x_0 + sigma (v + x_0)
        x0 = x_t - sigma * prediction
    eps = (x_t - alpha * x0) / sigma
    return {"epsilon": eps, "x0": x0, "v": eps - x0 if "flow" in native else alpha * eps - sigma * x0}


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_shift_is_positive(shift: float) -> None:
    with pytest.raises(ValueError, match="flow shift"):
        RectifiedFlow(shift)
