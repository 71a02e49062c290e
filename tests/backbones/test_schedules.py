"""The path of training is the one that the pipeline's own scheduler walks, whichever it is."""

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ddspo.backbones._sampler import replaced, scheduler_of
from ddspo.backbones._schedule import noise_path
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
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
        (DDIMScheduler(rescale_betas_zero_snr=True), "it ends at pure noise"),
        (EulerDiscreteScheduler(rescale_betas_zero_snr=True), "it ends at pure noise"),
        (DDIMScheduler(beta_end=1.0), "it ends at pure noise"),
        (DDIMScheduler(beta_start=-0.1), "its betas make no noise that grows from none to all"),
    ],
)
def test_other_models_are_refused(scheduler: object, message: str) -> None:
    pipeline = SD.tiny().pipeline
    pipeline.scheduler = scheduler
    with pytest.raises(InputError, match=message):
        SD.of(pipeline, Model("x"))


def test_a_model_of_v_may_end_at_pure_noise() -> None:
    path = noise_path(DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"), 64)
    assert isinstance(path, DDPM)
    assert path.alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (SD, {"num_train_timesteps": 0}, "not for this model"),
        (SD, {"num_train_timesteps": 500}, "not for this model, which DDIMScheduler samples"),
        (SD, {"num_train_timesteps": "many"}, "sample.scheduler_options.num_train_timesteps: 'many': input should be"),
        (SD, {"num_train_timesteps": True}, "sample.scheduler_options.num_train_timesteps: True: input should be a"),
        (SD, {"beta_end": "0.1"}, "sample.scheduler_options.beta_end: '0.1': input should be a valid number"),
        (SD, {"beta_end": math.inf}, "sample.scheduler_options.beta_end: inf: give a finite number"),
        (SD, {"clip_sample": "no"}, "sample.scheduler_options.clip_sample: 'no': input should be a valid boolean"),
        (SD, {"beta_schedule": 3}, "sample.scheduler_options.beta_schedule: 3: input should be a valid string"),
        (SD, {"beta_schedule": "cosy"}, "not for this model: cosy"),
        (SD, {"timestep_spacing": []}, r"sample.scheduler_options.timestep_spacing: \[\]: input should be"),
        (SD, {"trained_betas": [0.1]}, "not for this model, which DDIMScheduler samples"),
        (SD, {"rescale_betas_zero_snr": True}, "not for this model: DDIMScheduler: it ends at pure noise"),
        (SD3, {"num_train_timesteps": 0}, "not for this model"),
        (SD3, {"num_train_timesteps": 10}, "not for this model, which FlowMatchEulerDiscreteScheduler samples"),
        (SD3, {"shift": None}, "sample.scheduler_options.shift: None: input should be"),
        (SD3, {"shift": -1.0}, "not for this model: flow shift -1.0: it must be positive"),
    ],
)
def test_options_that_make_a_scheduler_useless(cls: type[Backbone], options: dict[str, Any], message: str) -> None:
    tiny = cls.tiny()
    with pytest.raises(InputError, match=message):
        replaced(tiny.pipeline.scheduler, tiny.path, None, options)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context")  # numpy, of what DEIS does
@pytest.mark.parametrize("name", [f"{name}Scheduler" for name in SAMPLERS + SOLVERS])
def test_every_sampler_walks_to_an_image(name: str, tiny_folder: Path) -> None:
    before = torch.get_rng_state()
    scheduler_of(SD.check(Model(str(tiny_folder))), name, {}, 20)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "options", "steps", "message"),
    [
        (None, {}, 1001, "sample.steps 1001: the model has 1000 times: take as many steps at most"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "x"},
            5,
            "algorithm_type: 'x': input should be 'dpmsolver'",
        ),
        ("EDMEulerScheduler", {}, 5, "sample.scheduler EDMEulerScheduler: not for this model"),
        ("EDMDPMSolverMultistepScheduler", {}, 5, "sample.scheduler EDMDPMSolverMultistepScheduler: not for this"),
        (None, {"steps_offset": 10**6}, 5, "DDIMScheduler with sample.scheduler_options {'steps_offset': 1000000}: "),
        (
            None,
            {"thresholding": True, "dynamic_thresholding_ratio": 5.0},
            5,
            "DDIMScheduler with sample.scheduler_opt",
        ),
    ],
)
def test_a_sampler_that_leads_nowhere(
    name: str | None, options: dict[str, Any], steps: int, message: str, tiny_folder: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        scheduler_of(SD.check(Model(str(tiny_folder))), name, options, steps)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train_timesteps": 0}, "scheduler: no scheduler can be made of it"),
        ({"num_train_timesteps": "x"}, "scheduler: no scheduler can be made of it"),
        ({"rescale_betas_zero_snr": True}, "scheduler: DDIMScheduler: it ends at pure noise"),
        ({"prediction_type": "sample"}, "scheduler: it predicts 'sample'"),
        ({"beta_end": 5.0}, "scheduler: DDIMScheduler: it ends at pure noise"),
    ],
)
def test_a_models_own_scheduler_is_looked_at(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    SD.tiny().save(tmp_path)
    path = tmp_path / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        SD.check(Model(str(tmp_path)))
    assert str(caught.value).startswith(f"model.path {tmp_path}: scheduler: ")
