"""Another of diffusers' schedulers in place of a pipeline's own, made from the configuration of that one."""

import difflib
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ddspo.backbones._model import Found, short
from ddspo.backbones._schedule import TOKENS, check_steps, is_flow, is_scheduler, noise_path, own_scheduler, walk
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError, quoted
from ddspo.maths.paths import DDPM, NoisePath, RectifiedFlow

KEY = "sample.scheduler"
FEW = 10
"""Steps that show whether a scheduler leads anywhere."""
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


@contextmanager
def sampling_with(backbone: Backbone, name: str | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Inside, a backbone samples with the scheduler of that name; None is the pipeline's own.

    Raises:
        InputError: It is none, or samples another kind of model, or an option is not one of its own.
    """
    own = backbone.pipeline.scheduler
    backbone.pipeline.scheduler = replaced(own, backbone.path, name, options)
    try:
        yield
    finally:
        backbone.pipeline.scheduler = own


def scheduler_of(found: Found, name: str | None, options: Mapping[str, Any], steps: int | None) -> Any:
    """What would sample, or the same errors, from a model's files, before any weights are loaded.

    Raises:
        InputError: As of `sampling_with`, or it leads nowhere, or there are more steps than times.
    """
    own = own_scheduler(found)
    scheduler = replaced(own, noise_path(own, TOKENS), name, options)
    check_steps(scheduler, steps or 1, "sample.steps")
    try:
        walk(scheduler, steps or FEW)
    except Exception as error:  # whatever a scheduler does with numbers that make no schedule
        with_options = f" with {KEY}_options {quoted(dict(options))}" if options else ""
        raise InputError(f"{KEY} {type(scheduler).__name__}{with_options}: {short(error)}: choose another") from None
    return scheduler


def replaced(own: Any, path: NoisePath, name: str | None, options: Mapping[str, Any]) -> Any:
    """A scheduler of some name for the model of another one, which has that path."""
    import diffusers

    kind: Any = getattr(diffusers, name, None) if name else type(own)
    if not is_scheduler(kind):
        known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
        near = " or ".join(difflib.get_close_matches(str(name), known)) or "DDIMScheduler"
        raise InputError(f"{KEY} {name}: no scheduler of diffusers: did you mean {near}?")
    _check_options(kind, options)
    if name is None and not options:
        return own
    title = f"{KEY} {kind.__name__}"
    try:
        made = kind.from_config(own.config, **{**(_flow(path, kind) if kind is not type(own) else {}), **options})
        other = noise_path(made, TOKENS)
    except Exception as error:  # an InputError, or whatever a scheduler does with numbers that make no schedule
        raise InputError(f"{title}: not for this model: {short(error)}") from None
    if not _same(path, other):
        raise InputError(f"{title}: not for this model, which {type(own).__name__} samples: choose another")
    return made


def _check_options(kind: type, options: Mapping[str, Any]) -> None:
    """Refuse what a scheduler does not take, or not with such a value."""
    takes = {
        each.name: each for each in inspect.signature(kind).parameters.values() if each.kind is not each.VAR_KEYWORD
    }
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    for name, value in options.items():
        where = f"{KEY}_options.{name}"
        if name not in takes:
            raise InputError(f"{where}: {kind.__name__} has no such option: one of {', '.join(takes)}")
        if value is None and takes[name].default is None:
            continue
        try:
            TypeAdapter(hints[name], config=STRICT).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{where}: {quoted(value)}: {error.errors()[0]['msg'].lower()}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: {value}: give a finite number")


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
    if is_flow(kind):
        return {"shift": path.shift}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": path.shift}


def _same(path: NoisePath, other: NoisePath) -> bool:
    """Whether a model of one path can be sampled along another: a flow's shift moves times alone."""
    if isinstance(path, RectifiedFlow):
        return isinstance(other, RectifiedFlow) and path.steps == other.steps
    if not isinstance(path, DDPM) or not isinstance(other, DDPM) or path.prediction != other.prediction:
        return False
    ours, theirs = path.alphas_cumprod, other.alphas_cumprod
    return ours.shape == theirs.shape and torch.allclose(ours, theirs)
