"""The only training loop: accumulate, clip, update, log, checkpoint; resumes where it was interrupted."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from accelerate import Accelerator
from annotated_types import Ge, Gt
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.objectives.base import Loss
from ddspo.policy_pairs.base import View
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder, read_rows, write_rows
from ddspo.training.batches import Batches, mean_over

Step = Callable[[View], Loss]
"""The loss of one noised micro-batch: all that differs between kinds of training."""


@dataclass(frozen=True)
class Optimisation:
    """How the policy is trained."""

    steps: Annotated[int, Gt(0), Doc("updates")] = 100
    batch: Annotated[int, Gt(0), Doc("pairs an update, over all processes; accumulation is derived")] = 64
    device_batch: Annotated[
        int, Gt(0), Doc("pairs that one process holds at once; changes memory, not the result")
    ] = 32
    lr: Annotated[float, Gt(0), Doc("AdamW's learning rate at its peak, absolute: nothing scales it")] = 1e-4
    schedule: Annotated[
        Literal["constant_with_warmup", "cosine", "linear"], Doc("how the rate goes on after the warm-up")
    ] = "constant_with_warmup"
    warmup: Annotated[int, Ge(0), Doc("updates over which the rate rises from zero")] = 0
    weight_decay: Annotated[float, Ge(0), Doc("AdamW's decoupled decay")] = 0.01
    max_grad_norm: Annotated[float, Gt(0), Doc("gradients are clipped to this norm")] = 1.0
    checkpoint_every: Annotated[int, Gt(0), Doc("updates between resumable checkpoints")] = 25
    keep: Annotated[int, Gt(0), Doc("checkpoints kept, the newest")] = 2


class Trained(Protocol):
    """What the loop trains.

    Attributes:
        networks: The modules that the step calls; the loop wraps them for distribution in place.
    """

    networks: list[nn.Module]

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The trained parameters, clipped group by group, each by the name under which its norm is logged."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Everything beside the optimizer that a resumed run needs, by name."""
        ...

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        ...

    def updated(self, step: int) -> None:
        """Follow update number `step`, counted from 1."""
        ...


@dataclass
class Fit:
    """One training run; `run()` is the loop.

    Attributes:
        name: The stage, for messages.
        folder: Where log.jsonl and checkpoints/ go.
    """

    name: str
    accelerator: Accelerator
    trained: Trained
    step: Step
    batches: Batches
    settings: Optimisation
    folder: RunFolder

    def __post_init__(self) -> None:
        settings, self.groups = self.settings, self.trained.groups()
        self.accelerator.free_memory()  # of whatever was trained before
        self.accelerator.gradient_accumulation_steps = check_batch(settings, self.accelerator.num_processes, self.name)
        parameters = [parameter for group in self.groups.values() for parameter in group]
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        *self.trained.networks, self.optimizer = self.accelerator.prepare(*self.trained.networks, optimizer)
        # Not handed to `prepare`, which would step it once for every process.
        self.schedule = get_scheduler(
            settings.schedule, optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps
        )

    def run(self, progress: Progress) -> None:
        """Train from the newest checkpoint, or from the start, to the last update."""
        start = self._resume()
        with progress.task(self.name, self.settings.steps, done=start) as advance:
            for step in range(start, self.settings.steps):
                row = self._update(step)
                if not math.isfinite(row["loss"]):
                    raise InputError(
                        f"update {step + 1}: the loss is {row['loss']}: lower {self.name}.lr or objective beta"
                    )
                self._append(row)
                advance(1, f"loss {row['loss']:.4f}")
                if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.settings.steps:
                    self._checkpoint(step + 1)

    def _update(self, step: int) -> dict[str, float]:
        losses, logs = [], []
        for view in self._micro_batches(step):
            with self.accelerator.accumulate(*self.trained.networks):
                loss = self._loss(view)
                self.accelerator.backward(loss.value)
                losses.append(loss.value.detach())
                logs.append(loss.log)
                if self.accelerator.sync_gradients:
                    norms = self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        lr = self.schedule.get_last_lr()[0]
        self.schedule.step()
        self.trained.updated(step + 1)
        return self._row(step, {"loss": torch.stack(losses).mean()} | mean_over(logs)) | {"lr": lr} | norms

    def _loss(self, view: View) -> Loss:
        with self.accelerator.autocast():
            return self.step(view)

    def _clip(self) -> dict[str, float]:
        """Clip each group on its own; the norms were those before."""
        self.accelerator.unscale_gradients(self.optimizer)
        largest = self.settings.max_grad_norm
        return {name: float(nn.utils.clip_grad_norm_(group, largest)) for name, group in self.groups.items()}

    def _micro_batches(self, step: int) -> Iterator[View]:
        rows = self.batches.rows(step)[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.settings.device_batch
        for first in range(0, len(rows), size):
            yield self.batches.view(rows[first : first + size], self.accelerator.device)

    def _row(self, step: int, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes; the mean of a square becomes a standard deviation."""
        names = list(values)
        means = self.accelerator.reduce(torch.stack([values[name].float() for name in names]), "mean").tolist()
        row = {"step": step + 1} | dict(zip(names, means, strict=True))
        for name in [name.removesuffix("_square") for name in names if name.endswith("_square")]:
            row[f"{name}_std"] = max(row.pop(f"{name}_square") - row[f"{name}_mean"] ** 2, 0.0) ** 0.5
        return row

    def _append(self, row: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with self.folder.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _checkpoint(self, step: int) -> None:
        """Write weights and optimizer under a temporary name, rename, and drop the oldest."""
        if self.accelerator.is_main_process:
            final = self.folder.checkpoints / f"{step:07d}"
            partial = self.folder.checkpoints / f".{step:07d}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            weights = {name: value.contiguous() for name, value in self.trained.weights().items()}
            save_file(weights, partial / "weights.safetensors")
            save_file(_flat(self.optimizer.state_dict()["state"]), partial / "optimizer.safetensors")
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            for old in self._saved()[: -self.settings.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint, cut the log to it, and say how many updates it holds."""
        saved = self._saved()
        step = int(saved[-1].name) if saved else 0
        if saved:
            self.trained.restore(load_file(saved[-1] / "weights.safetensors"))
            state = self.optimizer.state_dict()
            self.optimizer.load_state_dict(state | {"state": _deep(load_file(saved[-1] / "optimizer.safetensors"))})
            for _ in range(step):
                self.schedule.step()
        if self.accelerator.is_main_process:
            rows = _whole_rows(self.folder.log) if self.folder.log.exists() else []
            write_rows(self.folder.log, [row for row in rows if row["step"] <= step])
        self.accelerator.wait_for_everyone()
        return step

    def _saved(self) -> list[Path]:
        return sorted(self.folder.checkpoints.glob("[0-9]*"))


def check_batch(settings: Optimisation, processes: int, name: str = "train") -> int:
    """Micro-batches an update on each process; `name` is where the settings are, for messages.

    Raises:
        InputError: The global batch is no multiple of what all processes hold at once.
    """
    at_once = settings.device_batch * processes
    if settings.batch % at_once:
        raise InputError(
            f"{name}.batch {settings.batch}: not a multiple of {name}.device_batch {settings.device_batch} x "
            f"{processes} processes: choose a multiple of {at_once}, or another device_batch"
        )
    return settings.batch // at_once


def _flat(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{index}.{name}": value.contiguous() for index, part in state.items() for name, value in part.items()}


def _deep(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    return state


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a log whose last line may have been cut off by a kill."""
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return read_rows(path)
