"""How pairs are generated: the options of a recipe."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import JsonValue
from typing_extensions import Doc

from ddspo.backbones._sampler import scheduler_of
from ddspo.backbones._schedule import calls_of
from ddspo.backbones.base import Backbone, Found
from ddspo.errors import InputError
from ddspo.metrics.base import Metric
from ddspo.pairs.layout import Layout

SHARES = 16
"""A small run has as many shards at least, so that as many processes can share it."""


@dataclass(frozen=True)
class Labels:
    """Pairs of one prompt each: the best against the worst of several samples from different seeds."""

    judge: Annotated[Metric, Doc("what scores the samples, each alone, against the rows of `prompts`")]
    candidates: Annotated[int, Ge(2), Doc("samples of each prompt; if all score alike, it gives no pair")] = 8
    pairs: Annotated[
        int, Ge(1), Doc("pairs of each prompt at most: the best and the worst, the next best and next worst, ...")
    ] = 1


@dataclass(frozen=True)
class Sampling:
    """How pairs are generated."""

    # Not in the representation, whose digest is in the shards: a store may grow.
    pairs: Annotated[
        int,
        Gt(0),
        Doc("how many, or with labels of how many prompts; all prompts in a random order, then again with new seeds"),
    ] = field(default=512, repr=False)
    scheduler: Annotated[str | None, Doc("a scheduler of diffusers, as DDIMScheduler; null: the model's own")] = None
    scheduler_options: Annotated[
        dict[str, JsonValue], Doc("entries of its configuration that are to differ from the model's")
    ] = field(default_factory=dict)
    steps: Annotated[Annotated[int, Gt(0), Le(1000)] | None, Doc("sampler steps; null: as usual for the model")] = None
    guidance: Annotated[
        Annotated[float, Ge(1), Le(100)] | None,
        Doc("classifier-free guidance scale, 1 for none; null: as usual for the model"),
    ] = None
    # Neither is in the representation, whose digest is in the shards: pairs do not depend on them.
    batch: Annotated[int, Gt(0), Doc("pairs generated at once")] = field(default=32, repr=False)
    shard: Annotated[int, Gt(0), Doc("pairs of a file, in whole batches; fewer in a run of few")] = 1024
    labels: Annotated[Labels | None, Doc("a judge instead of degraded prompts; null: degraded prompts")] = None
    # Not in the representation, whose digest is in the shards: there are as many states as their columns say.
    states: Annotated[
        int, Ge(0), Doc("states x_t that the sampler visited, kept of each latent for draw.states: visited")
    ] = field(default=0, repr=False)

    def check(self, found: Found) -> None:
        """Refuse a scheduler that is not for a model, which is not loaded yet, more steps than the model has times, or
        more states than it visits.

        Raises:
            InputError: It is one, or there are.
        """
        scheduler = scheduler_of(found, self.scheduler, self.scheduler_options, self.steps)
        if self.steps:
            self.check_states(calls_of(scheduler, self.steps))

    def check_states(self, calls: int) -> None:
        """Refuse to keep more states than there are, one before each call of a scheduler.

        Raises:
            InputError: There are fewer.
        """
        if self.states > calls:
            raise InputError(f"sample.states {self.states}: the sampler visits {calls}: keep as many at most")

    def how(self, backbone: Backbone) -> tuple[int, float]:
        """Steps and guidance for a model."""
        steps, guidance = backbone.usual
        return self.steps or steps, self.guidance or guidance

    @property
    def layout(self) -> Layout:
        """Of a store that is begun: shards of whole batches, at most `shard`, and few enough for `SHARES` of them."""
        return Layout(self.batch * max(1, min(self.shard, self.pairs // SHARES) // self.batch), self.batch)

    @property
    def most(self) -> int:
        """Pairs that there will be, with labels at most."""
        return self.pairs * (self.labels.pairs if self.labels else 1)
