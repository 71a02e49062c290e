"""Pairs made anew by the policy that is trained, a round of updates at a time."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt
from typing_extensions import Doc

from ddspo import randomness
from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.pairs.store import PairStore
from ddspo.pairs.view import View
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.sampling.maker import PairMaker
from ddspo.training.batches import Batches
from ddspo.training.checkpoints import Checkpoints
from ddspo.training.sharding import whole
from ddspo.training.validation import undisturbed


@dataclass(frozen=True)
class OnPolicy:
    """Pairs by the policy as it is; their targets stay those of the frozen policies."""

    every: Annotated[
        int, Gt(0), Doc("updates of a round; each but the first draws from sample.pairs pairs of its own")
    ]

    def check(self, steps: int) -> None:
        """Refuse what would never happen in so many updates.

        Raises:
            InputError: There is one round only.
        """
        if self.every >= steps:
            raise InputError(
                f"on_policy.every {self.every}: never reached in {steps} updates: give less, or leave on_policy out"
            )

    def rounds(self, steps: int) -> int:
        """Rounds that the policy makes pairs for, in so many updates."""
        return (steps - 1) // self.every


@dataclass(frozen=True)
class Remaking:
    """When pairs are made anew, and who makes them with a backbone."""

    when: OnPolicy
    maker: Callable[[Backbone], PairMaker]

    def texts(self, backbone: Backbone, steps: int, *, degraded: bool) -> Iterator[str]:
        """Prompts of the rounds that come in so many updates, and degraded ones if asked for, with repetitions."""
        maker = self.maker(backbone)
        return maker.plan(1).texts(self.when.rounds(steps) * maker.settings.pairs, degraded=degraded)

    def rounds(
        self, backbone: Backbone, first: Batches, folder: RunFolder, window: float, progress: Progress
    ) -> "Rounds":
        """The batches of given pairs, and of those that the policy will make."""
        return Rounds(first, self.when.every, self.maker(backbone), folder, window, progress)


@dataclass
class Rounds:
    """The batches of every update: round r begins after r N updates, with pairs of the policy as it is then.

    Its pairs are numbers r M to (r + 1) M of the one sequence that `sample` began, so that prompts go on and seeds are
    new. A run that is resumed inside a round reads its pairs; at its beginning the restored weights make what is
    missing. All processes enter a round together.

    Attributes:
        first: The batches of the pairs that `sample` made.
        every: N.
        maker: Makes M pairs with the network that is trained.
        folder: The run.
        window: GiB of pairs in memory.
        progress: Gets a line a round.
    """

    first: Batches
    every: int
    maker: PairMaker
    folder: RunFolder
    window: float
    progress: Progress
    _now: Batches | None = field(default=None, init=False)
    _number: int = field(default=-1, init=False)

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Those of an update, counted from 0; each round begins to draw anew."""
        number, place = divmod(step, self.every)
        if self._now is None or number != self._number:
            alone(partial(self._clear, number))
            self._now, self._number = (self._enter(number, place) if number else self.first), number
        return self._now.rows(place)

    def view(self, rows: Sequence[tuple[int, int]], device: torch.device) -> View:
        """Some pairs of the round, noised."""
        assert self._now  # whoever has rows has asked for them
        return self._now.view(rows, device)

    def _enter(self, number: int, place: int) -> Batches:
        folder, accelerator, backbone = self.folder.round(number), self.maker.accelerator, self.maker.backbone
        if place == 0:
            with whole([backbone.denoiser]), undisturbed(backbone), accelerator.autocast():
                self.maker.make(folder, number)
        if not folder.exists():
            raise InputError(f"{folder}: the pairs of this round are gone: train again with --fresh")
        states = self.first.drawing.states == "visited"
        store = PairStore.open(folder, self.window, self.maker.model.path, states=states)
        share = (accelerator.process_index, accelerator.num_processes)
        agree(lambda: store.verify(backbone.latent_shape, *share))
        if place == 0:
            made = f"{len(store)} pairs by the policy after update {number * self.every}"
            self.progress.say(f"train: round {number}: {made}")
        return replace(self.first, data=store, seed=randomness.stable_seed(self.first.seed, "round", number))

    def _clear(self, number: int) -> None:
        """Drop the rounds that are over or that a run which was interrupted had reached beyond its checkpoint."""
        steps = Checkpoints(self.folder.checkpoints, keep=1).steps()
        kept = {self.folder.round(each) for each in (number, *(step // self.every for step in steps))}
        for path in set(self.folder.rounds.glob("*")) - kept:
            shutil.rmtree(path)
