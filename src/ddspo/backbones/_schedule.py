"""The forward process of training, from the configuration of whatever scheduler a pipeline samples with."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from ddspo import randomness
from ddspo.backbones._folder import parts_of
from ddspo.backbones._model import Found, short
from ddspo.errors import InputError, quoted
from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
"""Schedulers of flow models alone; others become one by `use_flow_sigmas` (the DPM solver of SANA)."""

TOKENS = 4096
"""Of an image, where none is made yet and a dynamic shift wants to know."""


def is_scheduler(kind: Any) -> bool:
    """Whether something of diffusers is one of its schedulers."""
    from diffusers import SchedulerMixin

    return isinstance(kind, type) and SchedulerMixin in kind.__mro__


def is_flow(kind: type) -> bool:
    """Whether a scheduler is one of flow models alone."""
    return any(each.__name__ in FLOW for each in kind.__mro__)


def own_scheduler(found: Found) -> Any:
    """The scheduler of a model, whose weights are not loaded.

    Raises:
        InputError: It is missing or damaged, or of no kind that is supported.
    """
    import diffusers

    where, name = f"{found.where}: scheduler", parts_of(found.model_index).get("scheduler", ("", "none"))[1]
    kind: Any = getattr(diffusers, name, None)
    if not is_scheduler(kind):
        raise InputError(f"{where}: {name} is none of diffusers: give another model")
    config = found.config("scheduler/scheduler_config.json")
    try:
        scheduler = kind.from_config(config)
        noise_path(scheduler, TOKENS)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # whatever a scheduler does with numbers that make no schedule
        raise InputError(f"{where}: no scheduler can be made of it ({short(error)}): get the folder anew") from None
    return scheduler


@contextmanager
def stepping(scheduler: Any, step: Callable[..., Any]) -> Iterator[None]:
    """Inside, a scheduler steps otherwise; pipelines still read from its signature what they may pass."""
    before = vars(scheduler).get("step")
    scheduler.step = wraps(scheduler.step)(step)
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


def check_steps(scheduler: Any, steps: int, where: str) -> None:
    """Refuse more steps than the model has times.

    Raises:
        InputError: There are more.
    """
    times = scheduler.config.num_train_timesteps
    if steps > times:
        raise InputError(f"{where} {steps}: the model has {times} times: take as many steps at most")


def check_guidance(model: str, scales: Mapping[str, Iterable[float | None]], *, guides: bool) -> None:
    """Refuse scales, by the name of their key, where a model cannot be guided; None is the usual one.

    Raises:
        InputError: There is one.
    """
    for key, scale in ((key, scale) for key, each in scales.items() for scale in each):
        if scale not in (None, 1) and not guides:
            mend = f"{key}=[1]" if key.endswith("s") else f"{key}=1"
            raise InputError(f"{key} {scale:g}: {model} is distilled to few steps and has no guidance: set {mend}")


def noise_path(scheduler: Any, tokens: int, mu: float | None = None) -> NoisePath:
    """The path of a pipeline whose denoiser sees an image as so many tokens.

    Args:
        scheduler: The pipeline's.
        tokens: What a dynamic shift depends on.
        mu: That shift, where the pipeline has a rule of its own for it.

    Raises:
        InputError: The scheduler belongs to another kind of model, or has no times.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if config.num_train_timesteps < 1:
        raise InputError(f"{name} with num_train_timesteps {config.num_train_timesteps}: give 1000, or another model")
    if is_flow(type(scheduler)) or config.get("use_flow_sigmas"):
        shift = flow_shift(config, tokens, mu)
        return RectifiedFlow(shift, config.num_train_timesteps, config.get("shift_terminal") or 0)
    # All samplers of one beta schedule hold it under this name: DDIM, PNDM, Euler, DPM solvers, UniPC and others.
    if "alphas_cumprod" not in vars(scheduler):
        raise InputError(f"{name} is no scheduler of an epsilon, v or flow model: give another model")
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"it predicts {quoted(config.prediction_type)}: only epsilon, v and flow are supported")
    levels = scheduler.alphas_cumprod
    if not ((levels >= 0) & (levels <= 1)).all():
        raise InputError(f"{name}: its betas make no noise that grows from none to all: give another model")
    if config.prediction_type == "epsilon" and (config.get("rescale_betas_zero_snr") or not levels.all()):
        raise InputError(
            f"{name}: it ends at pure noise (rescale_betas_zero_snr, or betas of 1), of which a prediction of epsilon "
            "says nothing: set rescale_betas_zero_snr to false, or give a model with prediction_type v_prediction"
        )
    return DDPM(levels, config.prediction_type)


def calls_of(scheduler: Any, steps: int) -> int:
    """How often a scheduler is called, each time with a prediction, for so many steps."""
    shifted = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(steps, **shifted)
    return len(scheduler.timesteps)


def walk(scheduler: Any, steps: int) -> None:
    """Go from noise to an image with a model that predicts the noise itself, without any model.

    Raises:
        ValueError: It ends nowhere.
        Exception: Whatever the scheduler raises.
    """
    calls_of(scheduler, steps)
    noise = randomness.normal([0], (4, 8, 8))
    latents, seeded = noise, "generator" in inspect.signature(scheduler.step).parameters
    draws = {"generator": torch.Generator().manual_seed(0)} if seeded else {}
    for t in scheduler.timesteps:
        latents = latents if is_flow(type(scheduler)) else scheduler.scale_model_input(latents, t)
        latents = scheduler.step(noise, t, latents, **draws, return_dict=False)[0]
    if not torch.isfinite(latents).all():
        raise ValueError("it gives latents that are not finite")


def flow_shift(config: Any, tokens: int, mu: float | None = None) -> float:
    """How far inference moves times towards noise: a constant, or with dynamic shift a function of the image's size.

    Dynamic shift (FLUX.1-dev): exp(mu), or mu where the config says so, with mu linear in the number of tokens.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config["flow_shift"] if config.get("use_flow_sigmas") else config["shift"])
    if mu is None:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        mu = calculate_shift(
            tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
    return float(mu if config.get("time_shift_type") == "linear" else math.exp(mu))
