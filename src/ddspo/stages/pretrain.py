"""pairs/ -> policies/winner, policies/loser: the base, fine-tuned on either side of the pairs."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from accelerate import Accelerator
from typing_extensions import Doc

from ddspo import randomness
from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.lora import LoRA
from ddspo.agreement import agree, alone
from ddspo.backbones._residence import rest
from ddspo.backbones.base import Backbone
from ddspo.files import replace_atomically
from ddspo.maths.pair import Pair
from ddspo.pairs.data import Pairs
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.training.batches import Batches
from ddspo.training.drawing import Drawing
from ddspo.training.fit import Fit
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.optimisation import Optimisation
from ddspo.training.sharding import gathered
from ddspo.training.texts import conditions_of


@dataclass(frozen=True)
class Pretraining:
    """How winner and loser of a data-driven pair learn from the pairs, by the plain denoising loss."""

    adaptation: Annotated[Adaptation, Doc("which of their weights are trained")] = field(
        default_factory=lambda: LoRA(rank=4, alpha=4)
    )
    train: Annotated[Optimisation, Doc("how they are trained; both see every pair")] = field(
        default_factory=lambda: Optimisation(steps=300, lr=1e-4, checkpoint_every=50)
    )


def pretrain(
    run: RunFolder,
    backbone: Backbone,
    data: Pairs,
    settings: Pretraining,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train both at once and write them; an interrupted run goes on from its newest checkpoint."""
    agree(lambda: data.verify(backbone.latent_shape, accelerator.process_index, accelerator.num_processes))
    backbone.to(accelerator.device)
    adaptation = settings.adaptation
    seeds = Pair("winner", "loser").map(lambda who: randomness.stable_seed(seed, "adapter", who) % 2**32)
    folder, given, own = run.pretraining, settings.train, randomness.stable_seed(seed, "pretrain")
    with conditions_of(backbone, data.texts(degraded=False), given.encode, folder.conditions) as conditions:
        rest(backbone, texts=given.encode == "during", denoiser=given.parallel == "fsdp")
        imitators = Imitators.of(backbone, adaptation, seeds)
        fit = Fit(
            name="pretrain",
            accelerator=accelerator,
            trained=imitators,
            step=partial(imitation_step, imitators),
            steady=False,
            batches=Batches(
                data, conditions, given.batch, own, backbone.path, Drawing(noise="independent"), reads_degraded=False
            ),
            settings=given,
            folder=folder,
        )
        fit.run(progress)
    with fit.averaged():
        for who, behaviour in zip(("winner", "loser"), imitators.trained, strict=True):
            weights = gathered(adaptation.weights(behaviour)) if fit.shares else None
            save = partial(adaptation.save, backbone, behaviour=behaviour, weights=weights)
            alone(partial(replace_atomically, run.policies / who, save))
