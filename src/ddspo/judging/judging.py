"""Judges galleries of image files, one judge in memory at a time; the processes share the pictures."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ddspo.agreement import agree, alone
from ddspo.errors import InputError, shortened
from ddspo.images import Unreadable, read_image
from ddspo.judging.asking import asking, check
from ddspo.judging.ledger import Key, ledger
from ddspo.judging.pictures import Picture, image_digest
from ddspo.metrics.base import Measure, Metric, Score, SetMetric, Shown
from ddspo.progress import Progress


@dataclass(frozen=True)
class References:
    """Real images: their digest, and what reads them anew."""

    digest: str
    read: Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Set:
    """All pictures of one model; only who asks for the digest reads them for it, and once."""

    pictures: Sequence[Picture]

    @cached_property
    def digest(self) -> str:
        """Of the images and whose they are, in whatever order."""
        every = sorted((image_digest(read(each.path)), each.item) for each in self.pictures)
        return hashlib.sha256(json.dumps(every).encode()).hexdigest()


@dataclass(frozen=True)
class Judging:
    """Asks metrics for scores, and says what it does.

    Attributes:
        batch: Images that a judge gets at once.
    """

    accelerator: Accelerator
    progress: Progress
    batch: int

    def scores(self, metric: Metric, pictures: Sequence[Picture]) -> list[Score]:
        """A score for each picture, in order, on every process.

        Args:
            metric: What judges.
            pictures: Of any models, sizes and prompts.

        Raises:
            InputError: A file is no image, weights cannot be had, or a score is no number.
        """
        self._announce(metric)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = agree(lambda: self._share(metric, pictures[rank::world]))
        self.accelerator.free_memory()  # before the next judge is loaded
        every = gather_object([mine])  # the share of each process
        return [every[number % world][number // world] for number in range(len(pictures))]

    def figures(
        self, metric: SetMetric, sets: Mapping[str, Set], references: References | None
    ) -> dict[str, dict[str, float]]:
        """The figures of some sets by their names, which the first process measures; empty on all others.

        Raises:
            InputError: A file is no image, or weights cannot be had.
        """
        self._announce(metric)
        found: dict[str, dict[str, float]] = {}
        used = references if metric.needs_references else None
        alone(lambda: found.update(self._measure(metric, sets, used)))
        self.accelerator.free_memory()
        return found

    def _announce(self, metric: Measure) -> None:
        """Say what is used and downloaded, and under which terms, and then download it."""
        for weights in metric.weights:
            if not weights.is_here:
                self.progress.say(f"{metric.name}: downloads {weights}")
            elif not weights.commercial:
                self.progress.say(f"{metric.name}: uses {weights}")
        alone(lambda: [weights.path() for weights in metric.weights])

    def _share(self, metric: Metric, pictures: Sequence[Picture]) -> list[Score]:
        """The scores of one process's share."""
        scores: list[Score] = []
        world = self.accelerator.num_processes
        with (
            asking(metric, self.accelerator.device) as judge,
            self.progress.task("judge", len(pictures) * world) as advance,
        ):
            for first in range(0, len(pictures), self.batch):
                part = pictures[first : first + self.batch]
                scores += judge([read(each.path) for each in part], [each.row for each in part])
                advance(len(part) * world, metric.name)
        return scores

    def _measure(
        self, metric: SetMetric, sets: Mapping[str, Set], references: References | None
    ) -> dict[str, dict[str, float]]:
        judge = metric.identity(self.accelerator.device)
        keys = {name: Key(each.digest, references.digest if references else "") for name, each in sets.items()}
        with ledger() as kept, ExitStack() as stack:
            known = kept.known(judge, [*keys.values()])
            left = [each for each, key in keys.items() if key not in known]
            if left:
                measure = stack.enter_context(
                    metric.open(self.accelerator.device, references.read if references else None)
                )
                advance = stack.enter_context(self.progress.task("judge", len(left)))
            for each in left:
                figures = measure(_shown(sets[each].pictures))
                score = Score(next(iter(figures.values())), json.dumps(figures))
                check(metric, [score])
                kept.keep(judge, [(keys[each], score)])
                known[keys[each]] = score
                advance(1, f"{metric.name} of {each}")
        return {each: json.loads(known[key].note) for each, key in keys.items()}


def read(path: Path) -> np.ndarray:
    """An image that was found readable before.

    Raises:
        InputError: It no longer is.
    """
    try:
        return read_image(path)
    except Unreadable as fault:
        raise InputError(f"{shortened(str(path))}: {fault}: replace it, or take it out") from None


def _shown(pictures: Sequence[Picture]) -> Iterator[Shown]:
    return (Shown(read(each.path), each.item) for each in pictures)
