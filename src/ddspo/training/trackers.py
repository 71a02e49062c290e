"""Experiment trackers, through Accelerate: every update's numbers, and validation grids where pictures are taken."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from ddspo.errors import InputError

Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]

PICTURES: dict[str, tuple[str, dict[str, str]]] = {
    "tensorboard": ("batch", {"dataformats": "NHWC"}),
    "wandb": ("list", {}),
    "swanlab": ("list", {}),
    "aim": ("one", {}),
    "clearml": ("one", {}),
}
"""Trackers that take pictures: as an array [1, H, W, 3], a list of arrays or one array, and with which options."""

FOLDERS = {"wandb": "dir", "dvclive": "dir", "mlflow": "logging_dir", "swanlab": "logdir"}
"""Trackers that are told their folder by an option of this name; tensorboard and aim get it from Accelerate."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what cannot be tracked with.

    Raises:
        InputError: A tracker is not installed, or not whole.
    """
    available = {str(tracker.value) for tracker in get_available_trackers()}
    for name in names:
        if name not in available:
            raise InputError(f"trackers: {name} is not installed: `pip install {name}`, or leave it out of the list")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"trackers: {name} cannot be imported ({error}): install it again, or leave it out"
            ) from None


@contextmanager
def tracked(accelerator: Accelerator, run: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Start the trackers that the accelerator was made with, and close them afterwards, whatever happens.

    Args:
        accelerator: Knows which trackers, and in which folder.
        run: The run's name.
        folder: Where those keep their files that keep any.
        settings: The recipe as a tree; trackers that list a run's settings get it with dotted names.
    """
    if accelerator.log_with:
        folder.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers(run, init_kwargs={name: {option: str(folder)} for name, option in FOLDERS.items()})
    for tracker in accelerator.trackers:
        if tracker.name != "tensorboard":  # whose list of settings is a further run beside the run
            tracker.store_init_configuration(dict(_dotted(settings)))
    try:
        yield
    finally:
        # Not `end_training`, which would also end the process group that later stages need.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers.clear()


def show(accelerator: Accelerator, grid: np.ndarray, step: int) -> None:
    """Give a picture, [H, W, 3] uint8, to the trackers that take one."""
    for tracker in accelerator.trackers:
        if tracker.name in PICTURES:
            form, options = PICTURES[tracker.name]
            picture = {"batch": grid[None], "list": [grid], "one": grid}[form]
            tracker.log_images({"validation": picture}, step=step, **options)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, int | float | str | None) else str(value)
