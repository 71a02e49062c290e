"""Makes the pairs of a plan into a folder of shards, whatever is there already.

A shard is made batch by batch, and what is in a batch does not depend on who makes it or when: an interruption costs
the batch in flight, and the next run makes exactly what is missing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import gather_object

from ddspo.agreement import agree, alone
from ddspo.backbones._sampler import check_draws, sampling_with
from ddspo.backbones.base import Backbone, Model
from ddspo.errors import InputError
from ddspo.judging.asking import asking
from ddspo.maths.pair import Pair
from ddspo.pairs.background import Behind, ahead
from ddspo.pairs.layout import Layout, keep_layout, layout_of
from ddspo.pairs.shards import DEGRADED, Origin, state_columns
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.progress import Progress
from ddspo.rows import Row
from ddspo.sampling.options import Labels, Sampling
from ddspo.sampling.plan import Plan
from ddspo.sampling.samples import Made, generate, label

LABELLED: dict[str, pa.DataType] = {
    **{"win_seed": pa.int64(), "lose_seed": pa.int64(), "win_score": pa.float64(), "lose_score": pa.float64()},
    **{"win_note": pa.string(), "lose_note": pa.string()},
}
ORDER = "prompts shuffled each turn"
"""What shards are told apart by: earlier releases made them in the file's own order."""


@dataclass(frozen=True)
class PairMaker:
    """What pairs are made of, and how; the processes take turns, a shard each.

    Attributes:
        sides: Of `win` and `lose` those that are sampled; a judge needs both.
    """

    prompts: Path
    backbone: Backbone
    model: Model
    settings: Sampling
    seed: int
    accelerator: Accelerator
    progress: Progress
    sides: tuple[str, ...] = Pair._fields

    def plan(self, number: int = 0) -> Plan:
        """The pairs of a round; each goes on where the one before ended."""
        return Plan(self.prompts, self.settings, self.seed, number * self.settings.pairs)

    def make(self, folder: Path, number: int = 0) -> None:
        """Make whatever is missing of a round in a folder.

        Raises:
            InputError: The scheduler is not for this model or visits fewer states than are to be kept, the judge
                cannot read a prompt's row, no two samples of any prompt differ, or there are pairs of other settings.
        """
        backbone, settings = self.backbone, self.settings
        with sampling_with(backbone, settings.scheduler, settings.scheduler_options):
            steps, guidance = settings.how(backbone)
            if settings.scheduler or settings.scheduler_options:
                check_draws(backbone, steps, guidance)
            settings.check_states(backbone.evaluations(steps, 1.0))
            layout = layout_of(folder, settings.layout).until(settings.pairs)
            alone(lambda: begin(folder, len(layout.sizes(settings.pairs))))
            alone(lambda: keep_layout(folder, layout))
            writer = PairWriter(folder, self._origin(number), self.accelerator.process_index)
            agree(lambda: self._run(self.plan(number), writer))
            for line in gather_object(writer.damaged):
                self.progress.say(f"sample: made again: {line}")
        alone(lambda: self._finish(folder, layout))

    def _finish(self, folder: Path, layout: Layout) -> None:
        entries, settings = finish(folder, len(layout.sizes(self.settings.pairs))), self.settings
        if settings.labels:
            pairs = sum(entry.rows for entry in entries.values())
            self.progress.say(_yield(pairs, settings.pairs, settings.labels))

    def _run(self, plan: Plan, writer: PairWriter) -> None:
        """All batches of a process: the next one is planned, and the last one written, while one is generated."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        with self._making() as make, self.progress.task("sample", self.settings.pairs) as advance, Behind() as behind:
            for batch in ahead(plan.batches(writer, process, processes)):
                if batch.part is not None:
                    made = make(batch.rows)
                    behind(partial(writer.add, batch.shard, batch.part, *made))
                if batch.closes:
                    behind(partial(writer.close, batch.shard, batch.closes))
                advance(len(batch.rows) * processes, kept=batch.part is None)

    @contextmanager
    def _making(self) -> Iterator[Callable[[Sequence[Row]], Made]]:
        """What makes the pairs of some rows; a judge stays loaded as long as it is at work."""
        backbone, settings = self.backbone, self.settings
        if not settings.labels:
            yield lambda rows: generate(backbone, rows, settings, self.sides)
            return
        with asking(settings.labels.judge, self.accelerator.device) as judge:
            yield lambda rows: label(backbone, rows, settings, judge)

    def _origin(self, number: int) -> Origin:
        """How the pairs are made. The representation names the judge's class, which its options alone would not."""
        backbone, model, settings = self.backbone, self.model, self.settings
        steps, guidance = settings.how(backbone)
        with self.prompts.open("rb") as file:
            prompts = hashlib.file_digest(file, "sha256").hexdigest()
        made: Row = {"model": model.path, "revision": model.revision, "dtype": model.dtype}
        made |= {"resolution": model.resolution, "scheduler": type(backbone.pipeline.scheduler).__name__}
        made |= {"steps": steps, "guidance": guidance, "seed": self.seed, "prompts": prompts[:16]}
        made |= {"recipe": hashlib.sha256(f"{settings} {ORDER}".encode()).hexdigest()[:16]}
        made |= {"states": settings.states} if settings.states else {}
        less = settings.labels and not settings.labels.judge.higher_is_better
        made |= {"less_is_better": True} if less else {}
        made |= {"round": number} if number else {}
        columns = LABELLED if settings.labels else DEGRADED
        columns = columns | state_columns(settings.states, backbone.latent_shape, self.sides)
        return Origin(made, backbone.latent_shape, columns, self.sides)


def _yield(pairs: int, prompts: int, labels: Labels) -> str:
    """What a reader must know of labelled pairs, in a line."""
    if not pairs:
        raise InputError(
            f"sample: all {labels.candidates} samples of every prompt score alike, so that there is no pair: "
            "raise sample.labels.candidates or sample.pairs, or choose prompts that the model sometimes gets wrong"
        )
    return f"sample: {pairs} pairs of {prompts} prompts, each with {labels.candidates} samples"
