"""The processes and devices of a run, its precision and its trackers, as one Accelerator."""

import os
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from ddspo.errors import InputError
from ddspo.training.fit import Optimisation, check_batch
from ddspo.training.trackers import check_trackers


def accelerator(settings: Optimisation, dtype: str, trackers: Sequence[str], folder: Path) -> Accelerator:
    """Training runs under autocast in the model's own precision; with fp32, in what Accelerate is set to.

    Args:
        settings: Of training; accumulation follows from its batches.
        dtype: The model's precision, of `backbones.base.DTYPES`.
        trackers: Who gets the log.
        folder: Where trackers keep their files; made only when they start.

    Raises:
        InputError: Batches, precision or trackers do not fit the machine.
    """
    check_trackers(trackers)
    precision = None if dtype == "fp32" else dtype
    try:
        made = Accelerator(
            gradient_accumulation_steps=check_batch(settings, int(os.environ.get("WORLD_SIZE", "1"))),
            mixed_precision=precision,
            log_with=list(trackers) or None,
            project_dir=str(folder),
        )
    except ValueError as error:
        raise InputError(f"model.dtype {dtype}: {error}: choose another") from None
    if precision and not made.native_amp:
        raise InputError(f"model.dtype {dtype}: training in it needs a GPU: choose bf16 or fp32 on {made.device}")
    return made
