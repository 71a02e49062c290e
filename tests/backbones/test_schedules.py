"""The path of training is the one that the pipeline's own scheduler walks, whichever it is."""

import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ddspo.backbones._schedule import noise_path
from ddspo.backbones.base import Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.maths.paths import DDPM, RectifiedFlow

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SAMPLERS = ["DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "LCM", "TCD"]
SOLVERS = ["DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS + SOLVERS)
def test_samplers_share_the_models_schedule(name: str, prediction: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(**BETAS, prediction_type=prediction)
    path = noise_path(scheduler, 64)
    assert isinstance(path, DDPM)
    assert path.prediction == prediction
    assert torch.equal(path.alphas_cumprod, DDPMScheduler(**BETAS).alphas_cumprod)


def test_euler_sees_the_same_noisy_latents() -> None:
    """It keeps x_0 + (sigma / alpha) eps, and scales that by alpha before the denoiser sees it."""
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    x0, eps = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = scheduler.timesteps[5]
    theirs = scheduler.scale_model_input(scheduler.add_noise(x0, eps, t[None]), t)
    torch.testing.assert_close(noise_path(scheduler, 64).noise(x0, eps, t.long().repeat(4)), theirs)


def test_a_static_shift_is_that_of_inference() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert noise_path(scheduler, 64) == RectifiedFlow(3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4))
    u = torch.tensor([1.0, 0.75, 0.5, 0.25])
    torch.testing.assert_close(noise_path(scheduler, 64).times(u), scheduler.timesteps, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63)])
def test_a_dynamic_shift_depends_on_the_images_size(tokens: int, mu: float) -> None:
    """mu is linear from 0.5 at 256 tokens to 1.15 at 4096: at 1024, 0.5 + 0.65 x 768 / 3840 = 0.63."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    path = noise_path(scheduler, tokens)
    assert isinstance(path, RectifiedFlow)
    assert path.shift == pytest.approx(math.exp(mu))
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4), mu=calculate_shift(tokens))
    torch.testing.assert_close(
        path.times(torch.tensor([1.0, 0.75, 0.5, 0.25])), scheduler.timesteps, rtol=1e-5, atol=1e-3
    )


def test_flux_counts_its_own_tokens() -> None:
    """16 x 16 pixels are 8 x 8 latents, 4 x 4 patches; twice the side is four times as many."""
    small = Flux.tiny()
    large = Flux.of(small.pipeline, Model("", resolution=32, max_length=24))
    assert (small.tokens, large.tokens) == (16, 64)
    assert isinstance(large.path, RectifiedFlow)
    assert large.path.shift == pytest.approx(math.exp(calculate_shift(64)))


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_a_solver_on_flow_sigmas_is_a_flow(kind: type) -> None:
    """As in SANA. The solver rounds its clock down to whole numbers; training has no need to."""
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    path = noise_path(scheduler, 64)
    assert path == RectifiedFlow(3.0)
    scheduler.set_timesteps(10)
    _, sigma = path.coefficients(scheduler.timesteps)
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].float(), rtol=0, atol=1.001e-3)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (EDMEulerScheduler(), "EDMEulerScheduler is no scheduler of an epsilon, v or flow model"),
        (DDPMScheduler(prediction_type="sample"), "it predicts 'sample': only epsilon, v and flow"),
    ],
)
def test_other_models_are_refused(scheduler: object, message: str) -> None:
    pipeline = SD.tiny().pipeline
    pipeline.scheduler = scheduler
    with pytest.raises(InputError, match=message):
        SD.of(pipeline, Model("x"))
