"""pairs/ -> checkpoints/, log.jsonl, aligned/: the policy, by the one training loop."""

import shutil
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ddspo import draws
from ddspo.adaptations.base import Adaptation
from ddspo.backbones.base import Backbone
from ddspo.objectives.base import Objective
from ddspo.policy_pairs.base import PolicyPair
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder, replace_atomically
from ddspo.training.batches import Batches, Conditions, PairData
from ddspo.training.fit import Fit, Optimisation
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step


@dataclass(frozen=True)
class Method:
    """What is trained, towards what, and by which loss."""

    policy_pair: PolicyPair
    objective: Objective
    adaptation: Adaptation


def train(
    run: RunFolder,
    backbone: Backbone,
    data: PairData,
    method: Method,
    settings: Optimisation,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train and write `aligned/`; a run that was interrupted goes on from its newest checkpoint."""
    backbone.to(accelerator.device)
    conditions = Conditions(backbone, [*data.prompts, *data.degraded])
    policies = Policies.of(backbone, method.adaptation, draws.stable_seed(seed, "adapter") % 2**32)
    fit = Fit(
        name="train",
        accelerator=accelerator,
        trained=policies,
        step=partial(preference_step, policies, method.policy_pair, method.objective),
        batches=Batches(data, conditions, settings.batch, seed, backbone.path),
        settings=settings,
        folder=run,
    )
    fit.run(progress)
    if accelerator.is_main_process:
        shutil.rmtree(run.aligned, ignore_errors=True)
        replace_atomically(run.aligned, lambda folder: method.adaptation.save(backbone, folder))
    accelerator.wait_for_everyone()
