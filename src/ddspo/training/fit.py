"""The only training loop: accumulate, clip, update, log, checkpoint; resumes where it was interrupted."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ddspo.adaptations.base import recompute_activations
from ddspo.agreement import alone
from ddspo.errors import InputError, Stopped, shortened
from ddspo.objectives.base import Loss
from ddspo.pairs.view import View
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.training import optimizers, sharding
from ddspo.training.average import Average
from ddspo.training.batches import mean_over
from ddspo.training.checkpoints import Checkpoints
from ddspo.training.clock import Clock
from ddspo.training.compiling import as_before, compile_blocks
from ddspo.training.guards import best, fault
from ddspo.training.log import Log, row_of
from ddspo.training.optimisation import Optimisation, check_batch
from ddspo.training.state import State, Weights
from ddspo.training.validation import Validator

Step = Callable[[View], Loss]
"""The loss of one noised micro-batch: all that differs between kinds of training."""


class Supply(Protocol):
    """Where the loop has its batches from."""

    def rows(self, step: int) -> list[tuple[int, int]]:
        """The (row, visit) of each pair of an update, counted from 0; all processes ask for all updates in turn."""
        ...

    def view(self, rows: Sequence[tuple[int, int]], device: torch.device) -> View:
        """Some pairs of the update that was asked for last, noised."""
        ...


class Trained(Weights, Protocol):
    """What the loop trains.

    Attributes:
        networks: The trained modules that the step calls; the loop wraps them for distribution in place.
        frozen_networks: The others.
    """

    networks: list[nn.Module]
    frozen_networks: list[nn.Module]

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The trained parameters, clipped group by group, each by the name under which its norm is logged."""
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
        validator: Looks at the policy on the way, if anyone does.
        survey: What of each pair the step wants the mean of, over the whole batch of an update; [N] of N pairs.
        steady: Whether a loss starts at one value whatever the batch.
    """

    name: str
    accelerator: Accelerator
    trained: Trained
    step: Step
    batches: Supply
    settings: Optimisation
    folder: RunFolder
    validator: Validator | None = None
    survey: Callable[[View], Tensor] | None = None
    steady: bool = True

    def __post_init__(self) -> None:
        settings, accelerator, trained = self.settings, self.accelerator, self.trained
        accelerator.free_memory()  # of whatever was trained before
        accelerator.gradient_accumulation_steps = check_batch(settings, accelerator.num_processes, self.name)
        if settings.gradient_checkpointing:
            for network in trained.networks:
                recompute_activations(network)
        self.shares = settings.parallel == "fsdp" and accelerator.num_processes > 1
        self.all_networks = [*trained.networks, *trained.frozen_networks]
        if self.shares:
            sharding.shard(self.all_networks, accelerator.device, accelerator.num_processes, settings.shards)
        self.groups = trained.groups()
        parameters = [parameter for group in self.groups.values() for parameter in group]
        optimizer = optimizers.build(settings.optimizer, parameters, settings.lr, settings.weight_decay)
        if self.shares:
            self.optimizer = accelerator.prepare(optimizer)
        else:
            *trained.networks, self.optimizer = accelerator.prepare(*trained.networks, optimizer)
        self.done = 0  # updates that were made, and not skipped
        self.schedule = self._schedule(self.done)
        self.average = Average(parameters, settings.average) if settings.average else None
        self.checkpoints = Checkpoints(self.folder.checkpoints, settings.keep)
        self.log = Log(self.folder.log, writes=accelerator.is_main_process)
        self.state = State(
            self.checkpoints, trained, self.optimizer, parameters, self.average, accelerator, self.shares
        )

    def run(self, progress: Progress) -> None:
        """Train from the newest checkpoint, or from the start, to the last update, and look at what that left.

        Raises:
            Stopped: A guard stopped it.
        """
        start, last = self._resume(progress), self.settings.steps
        if self.settings.compile and start < last:
            self._compile(progress, start)
        with progress.task(self.name, last, done=start) as advance:
            for step in range(start + 1, last + 1):
                row = self._update(step - 1)
                row |= self._validate(step)
                self._watch(row)
                self.log.append(row)
                self.accelerator.log(row, step=step)
                advance(1, f"loss {row['loss']:.4f}")
                if step % self.settings.checkpoint_every == 0 or step in (last, best(self.log.rows)):
                    self.state.write(step, self.log.text, lambda: best(self.log.rows))
        self._look_again(last)

    def return_to_best(self) -> dict[str, float]:
        """Put back the weights, and their average, of the best validation score, and give its row of the log.

        Raises:
            InputError: Its checkpoint is gone.
        """
        step = best(self.log.rows)
        if step is None or step not in self.checkpoints.steps():
            raise InputError(
                f"{self.name}: validation.save best: no checkpoint of update {step}: train again with --fresh"
            )
        self._restore(step)
        return next(row for row in self.log.rows if row["step"] == step)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the weights are those to save: their moving average, where there is one."""
        return self.average.applied() if self.average else nullcontext()

    def _update(self, step: int) -> dict[str, float]:
        losses, logs, rows = [], [], self._rows(step)
        clock = Clock(self.accelerator.device)  # of the update alone: pairs of a round may have been made before it
        for view in self._micro_batches(rows):
            with self.accelerator.accumulate(*self.trained.networks):
                loss = self._loss(view)
                self.accelerator.backward(loss.value)
                losses.append(loss.value.detach())
                logs.append(loss.log)
                if self.accelerator.sync_gradients:
                    norms = self._clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        lr = float(self.schedule.get_last_lr()[0])
        row = row_of(self.accelerator, step + 1, {"loss": torch.stack(losses).mean()} | mean_over(logs))
        return row | {"lr": lr} | norms | self._follow() | clock.read()

    def _follow(self) -> dict[str, float]:
        """Whatever goes on with an update, where there was one: a gradient scaler skips those that overflow."""
        scaled, skipped = self.accelerator.scaler is not None, bool(self.optimizer.step_was_skipped)
        if not skipped:
            self.done += 1
            with warnings.catch_warnings():  # Accelerate lends the optimizer another step where it scales
                warnings.filterwarnings("ignore", r"Seems like `optimizer\.step\(\)` has been overridden")
                self.schedule.step()
            self.trained.updated(self.done)
            if self.average:
                self.average.follow()
        return {"skipped": float(skipped)} if scaled else {}

    def _loss(self, view: View) -> Loss:
        with self.accelerator.autocast():
            return self.step(view)

    def _clip(self) -> dict[str, float]:
        """Clip each group on its own; the norms were those before."""
        self.accelerator.unscale_gradients(self.optimizer)
        largest = self.settings.max_grad_norm
        clip = nn.utils.clip_grad_norm_
        return {name: sharding.number(clip(group, largest)) for name, group in self.groups.items()}

    def _rows(self, step: int) -> list[tuple[int, int]]:
        """Those of this process."""
        return self.batches.rows(step)[self.accelerator.process_index :: self.accelerator.num_processes]

    def _micro_batches(self, rows: Sequence[tuple[int, int]]) -> Iterator[View]:
        size, device, mean = self.settings.device_batch, self.accelerator.device, None
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        if self.survey:
            with self.accelerator.autocast():
                found = [self.survey(self.batches.view(part, device)).mean() for part in parts]
            mean = self.accelerator.reduce(torch.stack(found).mean(), "mean")
        for part in parts:
            yield replace(self.batches.view(part, device), mean=mean)

    def _compile(self, progress: Progress, step: int) -> None:
        """Compile what is trained, and try it on pairs of the update that comes; nothing of that stays."""
        from torch._dynamo.exc import TorchDynamoException

        networks = [self.accelerator.unwrap_model(network) for network in self.trained.networks]
        for network in networks:
            compile_blocks(network)
        try:
            self.accelerator.backward(self._loss(next(self._micro_batches(self._rows(step)))).value)
        except TorchDynamoException as error:
            as_before(networks)
            why = shortened(" ".join(str(error).split()))
            progress.say(f"{self.name}: train.compile: it fails here, and training goes on without: {why}")
        self.optimizer.optimizer.zero_grad()

    def _validate(self, step: int) -> dict[str, float]:
        if not self.validator or not self.validator.due(step):
            return {}
        with self.averaged(), sharding.whole(self.all_networks):
            return self.validator(step)

    @torch.no_grad()
    def _look_again(self, last: int) -> None:
        """What an update did shows in the next loss: for the last, in one of its own batch, before it is saved."""
        view = next(self._micro_batches(self._rows(last - 1)))
        loss = self._loss(view)
        self._watch(row_of(self.accelerator, last + 1, {"loss": loss.value} | loss.log))

    def _watch(self, row: dict[str, float]) -> None:
        """Stop on a fault; a checkpoint of the very weights that showed it is no good one."""
        # A gradient scaler looks for its scale by letting norms overflow.
        seen = row if self.accelerator.scaler is None else {k: v for k, v in row.items() if "grad_norm" not in k}
        found = fault(self.settings.guards, [*self.log.rows, seen], steady=self.steady)
        if not found:
            return
        if found.sudden:
            alone(lambda: self.checkpoints.drop(int(row["step"]) - 1))
        raise Stopped(f"{self.name}: update {row['step']}: {found.what}: {found.mend}; {self._kept()}")

    def _kept(self) -> str:
        steps = self.checkpoints.steps()
        top = best([row for row in self.log.rows if row["step"] in steps])
        if not steps:
            return "there is no good checkpoint yet: a run with a lower learning rate begins anew"
        scored = f", the best by score {self.checkpoints.path(top)}" if top else ""
        which = "" if top else f" {steps[-1]}"
        takes = f", and `ddspo take {self.folder.path}{which}` ends with it" if self.name == "train" else ""
        return (
            f"the last good checkpoint is {self.checkpoints.path(steps[-1])}{scored}: "
            f"a run with a lower learning rate goes on from the last{takes}"
        )

    def _schedule(self, done: int) -> LRScheduler:
        """The rate after some updates. Not handed to `prepare`, which would step it once for every process."""
        from diffusers.optimization import get_scheduler

        given = self.settings
        return get_scheduler(
            given.schedule, self.optimizer.optimizer, None, given.warmup, given.steps, last_epoch=done - 1
        )

    def _restore(self, step: int) -> None:
        self.done = step - sum(int(row.get("skipped", 0)) for row in self.log.rows if row["step"] <= step)
        self.state.restore(step, self.done)

    def _resume(self, progress: Progress) -> int:
        """Load the newest whole checkpoint and its log, and say how many updates it holds."""
        with self.accelerator.main_process_first():
            for line in self.checkpoints.drop_damaged():
                progress.say(f"{self.name}: {line}")
        step = max(self.checkpoints.steps(), default=0)
        with self.accelerator.main_process_first():
            self.log.go_on(self.checkpoints.log(step) if step else None)
        if step:
            self._restore(step)
            self.state.restore_optimizer(step)
            self.schedule = self._schedule(self.done)
        self.accelerator.wait_for_everyone()
        return step
