"""How weights are trained: the options of a recipe, and how a batch is shared out."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.training import optimizers
from ddspo.training.guards import Guards
from ddspo.training.texts import Encode


@dataclass(frozen=True)
class Optimisation:
    """How the policy is trained."""

    steps: Annotated[int, Gt(0), Doc("updates")] = 100
    batch: Annotated[int, Gt(0), Doc("pairs an update, over all processes; accumulation is derived")] = 64
    device_batch: Annotated[
        int, Gt(0), Doc("pairs that one process holds at once; changes memory, not the result")
    ] = 32
    gradient_checkpointing: Annotated[
        bool, Doc("compute activations again in the backward pass: far less memory for one forward more")
    ] = False
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        Doc("on several processes: whole weights in each, or weights, gradients and optimizer state in shares"),
    ] = "ddp"
    shards: Annotated[
        Annotated[int, Gt(0)] | None,
        Doc("with fsdp: processes that share one copy, such as those of one machine; null: all"),
    ] = None
    compile: Annotated[
        bool, Doc("compile the denoiser's repeated blocks: faster updates after a slow first one, and other rounding")
    ] = False
    encode: Annotated[
        Encode, Doc("texts: before training, kept in mapped files, or during it, with the text encoders at every step")
    ] = "before"
    window: Annotated[
        float,
        Gt(0),
        Le(2**20),
        Doc("GiB of pairs that a process holds; where there are more, so many are shuffled at a time"),
    ] = 2.0
    optimizer: Annotated[
        optimizers.Name,
        Doc("adamw; adamw_8bit, adafactor and muon keep less in memory; prodigy finds the step size, with lr 1"),
    ] = "adamw"
    lr: Annotated[float, Gt(0), Le(1000), Doc("learning rate at its peak, absolute: nothing scales it")] = 1e-4
    schedule: Annotated[
        Literal["constant_with_warmup", "cosine", "linear"], Doc("how the rate goes on after the warm-up")
    ] = "constant_with_warmup"
    warmup: Annotated[int, Ge(0), Le(1_000_000), Doc("updates over which the rate rises from zero")] = 0
    weight_decay: Annotated[float, Ge(0), Le(10), Doc("decoupled decay of the weights")] = 0.01
    max_grad_norm: Annotated[float, Gt(0), Doc("gradients are clipped to this norm")] = 1.0
    checkpoint_every: Annotated[int, Gt(0), Doc("updates between resumable checkpoints")] = 25
    keep: Annotated[
        int, Gt(0), Doc("checkpoints kept, the newest; the one of the best validation score stays too")
    ] = 2
    average: Annotated[
        Annotated[float, Interval(gt=0, lt=1)] | None,
        Doc("decay of a moving average of the trained weights, which is then what is saved and validated; null: none"),
    ] = None
    guards: Annotated[Guards, Doc("what stops it")] = field(default_factory=Guards)

    def check(self, name: str) -> None:
        """Refuse an optimizer that cannot be built, and what does not go with weights in shares.

        Args:
            name: Where the settings are, for messages.

        Raises:
            InputError: It cannot.
        """
        optimizers.check(self.optimizer, self.lr, name)
        if self.parallel == "ddp":
            if self.shards:
                raise InputError(f"{name}.shards: every process has all weights with ddp: set {name}.parallel=fsdp")
            return
        if self.optimizer != "adamw":
            raise InputError(f"{name}.optimizer {self.optimizer}: it needs whole weights: use adamw with fsdp")
        if self.compile:
            raise InputError(f"{name}.compile: not with {name}.parallel fsdp: leave one out")

    def remarks(self, name: str) -> list[str]:
        """What is not wrong, but should be known."""
        if self.warmup <= self.steps:
            return []
        share = f"{self.steps / self.warmup:.0%} of {name}.lr"
        return [f"{name}.warmup {self.warmup}: longer than the {self.steps} updates: the rate ends at {share}"]


def check_batch(settings: Optimisation, processes: int, name: str = "train") -> int:
    """Micro-batches an update on each process; `name` is where the settings are, for messages.

    Raises:
        InputError: The global batch is no multiple of what all processes hold at once, or these of those that share
            one copy of the weights.
    """
    if settings.parallel == "fsdp" and processes % (settings.shards or 1):
        raise InputError(
            f"{name}.shards {settings.shards}: {processes} processes cannot form groups of so many: choose a divisor"
        )
    at_once = settings.device_batch * processes
    if settings.batch % at_once:
        raise InputError(
            f"{name}.batch {settings.batch}: not a multiple of {name}.device_batch {settings.device_batch} x "
            f"{processes} processes: choose a multiple of {at_once}, or another device_batch"
        )
    return settings.batch // at_once
