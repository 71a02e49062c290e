"""The processes and devices of a run, its precision and its trackers, as one Accelerator."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env

from ddspo.errors import InputError
from ddspo.training.optimisation import Optimisation, check_batch
from ddspo.training.trackers import check_trackers

PACKAGES = ("ddspo", "torch", "diffusers", "transformers", "accelerate", "peft", "numpy")

OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "Accelerate's own FSDP"}
"""What a launcher may ask for in the environment, and is not used here."""

PATIENCE = timedelta(days=30)
"""How long processes wait for one that works alone, which asks a language model or generates pictures; whoever
launched them ends all when one dies."""


def accelerator(settings: Optimisation, dtype: str, trackers: Sequence[str], folder: Path) -> Accelerator:
    """Training runs under autocast in the model's own precision; with fp32, in what Accelerate is set to.

    Args:
        settings: Of training; accumulation follows from its batches.
        dtype: The model's precision, of `backbones.base.DTYPES`.
        trackers: Who gets the log.
        folder: Where trackers keep their files; made only when they start.

    Raises:
        InputError: Batches, precision or trackers do not fit the machine, or a launcher asks for an engine of its own.
    """
    for variable, engine in OTHERS.items():
        if parse_flag_from_env(variable):
            raise InputError(f"{engine}: not used here: leave it out of the launch, and set train.parallel=fsdp")
    check_trackers(trackers)
    precision = None if dtype == "fp32" else dtype
    try:
        made = Accelerator(
            gradient_accumulation_steps=check_batch(settings, int(os.environ.get("WORLD_SIZE", "1"))),
            mixed_precision=precision,
            log_with=list(trackers) or None,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise InputError(f"model.dtype {dtype}: {error}: choose another") from None
    if precision and not made.native_amp:
        raise InputError(f"model.dtype {dtype}: training in it needs a GPU: choose bf16 or fp32 on {made.device}")
    return made


def environment(made: Accelerator) -> dict[str, dict[str, str]]:
    """Versions of what runs, and the machine it runs on."""
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    machine = {
        "platform": platform.platform(),
        "device": str(made.device),
        "processes": str(made.num_processes),
        "threads": str(torch.get_num_threads()),
    }
    return {"versions": versions, "machine": machine}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
