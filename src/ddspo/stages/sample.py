"""prompts.jsonl -> pairs/: winning and losing latents in parquet shards.

A pair is either a sample of a prompt against one of its degraded prompt, from the same initial noise, or, with labels,
the best against the worst of several samples of one prompt, by a judge.
"""

from accelerate import Accelerator

from ddspo.agreement import alone
from ddspo.backbones.base import Backbone, Model
from ddspo.maths.pair import Pair
from ddspo.pairs.preview import preview
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.sampling.maker import PairMaker
from ddspo.sampling.options import Sampling


def sample(
    run: RunFolder,
    backbone: Backbone,
    model: Model,
    settings: Sampling,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
    sides: tuple[str, ...] = Pair._fields,
) -> None:
    """Generate whatever is missing of both sides of each pair, or of the one that will be looked at.

    Raises:
        InputError: As `PairMaker.make` says.
    """
    PairMaker(run.prompts, backbone, model, settings, seed, accelerator, progress, sides).make(run.pairs)
    alone(lambda: preview(PairStore.open(run.pairs), run.images / "pairs", backbone.decode))
