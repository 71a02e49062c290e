"""The DDPM path against diffusers' own schedulers, and the v identities in float64."""

import pytest
import torch
from diffusers import DDPMScheduler

from ddspo.maths.paths import DDPM


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
