"""Aligns a pipeline from Python, with no recipe: `python examples/align.py [MODEL OUT]`."""

import sys
from pathlib import Path

from accelerate import Accelerator

from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.degradations.remove_words import RemoveWords
from ddspo.objectives.base import Objective
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.store import PairStore
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Sampling
from ddspo.stages.degrade import degrade
from ddspo.stages.sample import sample
from ddspo.stages.train import Method, train
from ddspo.training.optimisation import Optimisation, check_batch

PROMPTS = ["a photo of a red circle", "a drawing of two squares", "an image of a blue cross above a triangle"]


def align(model: str, out: Path, objective: Objective, seed: int = 0) -> Path:
    """Degrade, sample, train; returns the folder that `load_lora_weights` reads. Run it again to continue."""
    run, progress = RunFolder(out), Progress()
    settings = Optimisation(steps=4, batch=8, device_batch=4, lr=1e-4)
    accelerator = Accelerator(gradient_accumulation_steps=check_batch(settings, processes=1))
    origin = Model(model)
    backbone = SD.load(origin).to(accelerator.device)
    prompts = [{"id": f"p{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    degrade(run, prompts, RemoveWords(), seed, progress)
    sample(run, backbone, origin, Sampling(pairs=8, steps=10, guidance=3.0, batch=8), seed, accelerator, progress)
    method = Method(TrainingFree(), objective, LoRA(rank=8, alpha=8))
    train(run, backbone, PairStore.open(run.pairs), method, settings, seed, accelerator, progress)
    return run.aligned


if __name__ == "__main__":
    model, out = sys.argv[1:3] if len(sys.argv) > 2 else ("package://ddspo.scenes/noise", "runs/align")
    print(align(model, Path(out), Logistic(beta=2000)))
