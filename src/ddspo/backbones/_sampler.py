"""Another of diffusers' schedulers in place of a pipeline's own, made from the configuration of that one."""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

from ddspo.backbones._model import Found, Model
from ddspo.backbones._schedule import FLOW, noise_path
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.maths.paths import DDPM, RectifiedFlow

KEY = "sample.scheduler"


@contextmanager
def sampling_with(backbone: Backbone, name: str | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Inside, a backbone samples with the scheduler of that name; None is the pipeline's own.

    Raises:
        InputError: It is none, or samples another kind of model, or an option is not one of its own.
    """
    own = backbone.pipeline.scheduler
    backbone.pipeline.scheduler = replaced(own, name, options, backbone.tokens)
    try:
        yield
    finally:
        backbone.pipeline.scheduler = own


def scheduler_of(found: Found, model: Model, name: str | None, options: Mapping[str, Any]) -> Any:
    """What would sample, or the same errors, from a model's files, before any weights are loaded."""
    kind = getattr(diffusers, found.model_index["scheduler"][1])
    own = kind.from_pretrained(found.folder, subfolder="scheduler")
    return replaced(own, name, options, 4096)


def replaced(own: Any, name: str | None, options: Mapping[str, Any], tokens: int) -> Any:
    """A scheduler of some name for the model of another one."""
    kind: Any = getattr(diffusers, name, None) if name else type(own)
    if SchedulerMixin not in getattr(kind, "__mro__", ()):
        known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
        near = " or ".join(difflib.get_close_matches(str(name), known)) or "DDIMScheduler"
        raise InputError(f"{KEY} {name}: no scheduler of diffusers: did you mean {near}?")
    has = [each for each in inspect.signature(kind.__init__).parameters if each != "self"]
    for each in options:
        if each not in has:
            raise InputError(f"{KEY}_options.{each}: {kind.__name__} has no such option: one of {', '.join(has)}")
    if name is None and not options:
        return own
    path = noise_path(own, tokens)
    try:
        made = kind.from_config(own.config, **{**(_flow(path, kind) if kind is not type(own) else {}), **options})
        other = noise_path(made, tokens)
    except (InputError, ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"{KEY} {name}: not for this model: {error}") from None
    if type(path) is not type(other) or (isinstance(path, DDPM) and not _same(path, other)):
        raise InputError(f"{KEY} {name}: not for this model, which {type(own).__name__} samples: choose another")
    return made


def check_draws(backbone: Backbone, steps: int, guidance: float) -> None:
    """Sample once with few steps, and see that nothing is drawn that no seed of an item decides.

    Raises:
        InputError: The scheduler does not work in the pipeline, or draws noise that nobody can repeat.
    """
    before, pipeline = _state(backbone), type(backbone.pipeline).__name__
    where = f"{KEY} {type(backbone.pipeline.scheduler).__name__}"
    try:
        latents = backbone.generate(["a"], [0], min(steps, 4), guidance)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, NotImplementedError) as error:
        raise InputError(f"{where}: fails in {pipeline}: {error}: choose another") from None
    if not torch.isfinite(latents).all():
        raise InputError(f"{where}: gives latents that are not finite: choose another")
    if not all(torch.equal(one, other) for one, other in zip(before, _state(backbone), strict=True)):
        raise InputError(f"{where}: draws noise that {pipeline} does not let be seeded: choose another")


def _state(backbone: Backbone) -> list[torch.Tensor]:
    cuda = [torch.cuda.get_rng_state(backbone.device)] if backbone.device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _flow(path: Any, kind: type) -> dict[str, Any]:
    """What makes a scheduler one of a flow with the same shift of times."""
    if not isinstance(path, RectifiedFlow):
        return {}
    if issubclass(kind, FLOW):
        return {"shift": path.shift}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": path.shift}


def _same(path: DDPM, other: Any) -> bool:
    same = torch.allclose(path.alphas_cumprod, other.alphas_cumprod)
    return same and path.prediction == other.prediction
