"""The forward process of training, from the configuration of whatever scheduler a pipeline samples with."""

import math
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ddspo.errors import InputError
from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow

FLOW = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler)
"""Schedulers of flow models alone; others become one by `use_flow_sigmas` (the DPM solver of SANA)."""


def noise_path(scheduler: Any, tokens: int) -> NoisePath:
    """The path of a pipeline whose denoiser sees an image as so many tokens.

    Raises:
        InputError: The scheduler belongs to another kind of model.
    """
    config = scheduler.config
    if isinstance(scheduler, FLOW) or config.get("use_flow_sigmas"):
        return RectifiedFlow(flow_shift(config, tokens), config.num_train_timesteps)
    # All samplers of one beta schedule hold it under this name: DDIM, PNDM, Euler, DPM solvers, UniPC and others.
    if "alphas_cumprod" not in vars(scheduler):
        name = type(scheduler).__name__
        raise InputError(f"model.path: {name} is no scheduler of an epsilon, v or flow model: give another model")
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"model.path: it predicts {config.prediction_type!r}: only epsilon, v and flow are supported")
    return DDPM(scheduler.alphas_cumprod, config.prediction_type)


def calls_of(scheduler: Any, steps: int) -> int:
    """How often a scheduler is called, each time with a prediction, for so many steps."""
    shifted = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(steps, **shifted)
    return len(scheduler.timesteps)


def flow_shift(config: Any, tokens: int) -> float:
    """How far inference moves times towards noise: a constant, or with dynamic shift a function of the image's size.

    Dynamic shift (FLUX.1-dev): exp(mu), or mu where the config says so, with mu linear in the number of tokens.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config["flow_shift"] if config.get("use_flow_sigmas") else config["shift"])
    mu = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    return float(mu if config.get("time_shift_type") == "linear" else math.exp(mu))
