"""Seconds and peak memory of training steps at true size, with random weights: nothing is downloaded.

    python benchmarks/gpu_step.py sd15 sdxl sd3 flux-dev              # architectures/*.json, or diffusers folders
    python benchmarks/gpu_step.py sdxl --adaptation full --policy-pair forward_noise --pairs 2
    python benchmarks/gpu_step.py flux-dev --quantize nf4 --recompute

Each step is one micro-batch with its update: noised pairs, frozen and policy predictions, backward, clipping, AdamW.
The text encoders run once, before, as in training. The first steps are not timed: they set up kernels and moments.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

import torch
from outlines import names, write

from ddspo import components, randomness
from ddspo.adaptations.base import Adaptation, recompute_activations
from ddspo.backbones._model import Quantization
from ddspo.backbones._outline import outline
from ddspo.backbones._residence import rest
from ddspo.backbones.base import Backbone, Model
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.base import PolicyPair
from ddspo.training.batches import Batches
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step
from ddspo.training.texts import EncodedTexts

WARM_UP = 2
PROMPT, DEGRADED = "a photo of a red cube on a blue sphere", "red sphere"


def main() -> None:
    """Measure every model that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help=f"of {', '.join(names())}, or a diffusers folder")
    parser.add_argument("--adaptation", default="lora", choices=components.names(Adaptation))
    parser.add_argument("--policy-pair", default="training_free", choices=("training_free", "forward_noise"))
    parser.add_argument("--pairs", type=int, default=1, help="pairs a step")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--dtype", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--quantize", choices=get_args(Quantization), help="what frozen weights are rounded to")
    parser.add_argument("--offload", action="store_true", help="they wait in main memory; give --recompute too")
    parser.add_argument("--recompute", action="store_true", help="activations of blocks are computed again")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    how = ", ".join(filter(None, (given.quantize, given.offload and "offload", given.recompute and "recompute")))
    print("| model | adaptation | how | pairs a step | seconds a step | peak memory |\n|---|---|---|---|---|---|")
    for name in given.models:
        seconds, peak = measure(name, given)
        print(
            f"| {name} | {given.adaptation} | {how or 'plain'} | {given.pairs} | {seconds:.3f} | {peak} |", flush=True
        )


def measure(name: str, given: argparse.Namespace) -> tuple[float, str]:
    """Mean seconds a step, and the peak of allocated memory as text."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(name, Path(scratch)) if name in names() else Path(name)
        model = Model(str(folder), dtype=given.dtype, quantize=given.quantize, offload=given.offload)
        built = outline(components.backbone_of(model), model, "cpu" if given.offload else given.device)
        backbone = built.to(given.device)
    if given.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = stepper(backbone, given)
    for index in range(WARM_UP):
        step(index)
    began = time.perf_counter()
    for index in range(given.steps):
        step(WARM_UP + index)
    if given.device != "cuda":
        return (time.perf_counter() - began) / given.steps, "not measured without CUDA"
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / given.steps
    return seconds, f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"


def stepper(backbone: Backbone, given: argparse.Namespace) -> "Step":
    """Everything that training sets up before its first update."""
    latents = Pair(*(randomness.normal([seed], backbone.latent_shape) for seed in (1, 2)))
    latents = latents.map(lambda one: one.repeat(given.pairs, 1, 1, 1).half())
    ids = [f"p{number}" for number in range(given.pairs)]
    data = PairData(ids, [PROMPT] * given.pairs, [DEGRADED] * given.pairs, latents)
    conditions = EncodedTexts(backbone, [PROMPT, DEGRADED], Path(tempfile.mkdtemp()) / "conditions")
    rest(backbone, texts=False)
    policies = Policies.of(backbone, components.find(Adaptation, given.adaptation)(), 0)
    if given.recompute:
        recompute_activations(policies.denoiser)
    batches = Batches(data, conditions, given.pairs, 0, backbone.path)
    return Step(policies, components.find(PolicyPair, given.policy_pair)(), batches, given)


class Step:
    """One update a call."""

    def __init__(
        self, policies: Policies, policy_pair: PolicyPair, batches: Batches, given: argparse.Namespace
    ) -> None:
        self.policies, self.policy_pair, self.batches, self.given = policies, policy_pair, batches, given
        self.parameters = [each for group in policies.groups().values() for each in group]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)

    def __call__(self, index: int) -> None:
        """Update number `index`."""
        view = self.batches.view(self.batches.rows(index), torch.device(self.given.device))
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.given.dtype)
        with torch.autocast(self.given.device, dtype=dtype, enabled=dtype is not None):
            loss = preference_step(self.policies, self.policy_pair, Logistic(), view)
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


if __name__ == "__main__":
    main()
