"""Pairs a minute of `ddspo sample` against a plain loop over the same pipeline: `python benchmarks/sample.py`.

The plain loop calls the pipeline with as many prompts at once, from the same noise, and writes a safetensors file a
pair: it checks nothing, and an interruption would cost it a file half written. Both run in turn, and the median of the
ratios is reported; above 1, `ddspo sample` is the faster one.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from timing import seconds

from ddspo import components, randomness
from ddspo.backbones.base import Backbone, Model
from ddspo.degradations.remove_words import RemoveWords
from ddspo.manifest import Manifest
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Sampling
from ddspo.stages.degrade import degrade
from ddspo.stages.sample import sample

PROMPTS = ["a photo of a red circle", "a drawing of two squares", "a blue cross above a triangle", "three green stars"]


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package://ddspo.scenes/noise")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="pairs generated at once")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    accelerator, model = Accelerator(), Model(given.model)
    backbone = components.backbone_of(model).load(model).to(accelerator.device)
    settings = Sampling(pairs=given.pairs, batch=given.batch, steps=given.steps, guidance=given.guidance)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        prompts = [{"id": f"p{number}", "prompt": text} for number, text in enumerate(PROMPTS)]
        degrade(run, prompts, RemoveWords(), 0, Progress(speaks=False))

        def ours() -> None:
            Manifest(run).forget(["sample"])
            sample(run, backbone, model, settings, 0, accelerator, Progress(speaks=False))

        def plain() -> None:
            loop(backbone, run, settings, Path(folder) / "plain")

        for function in (ours, plain):
            function()
        taken = [(seconds(ours), seconds(plain)) for _ in range(given.rounds)]
    mine, theirs = (60 * given.pairs / statistics.median(each) for each in zip(*taken, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in taken)
    print(
        f"{accelerator.device}: ddspo sample {mine:.0f} pairs a minute, plain loop {theirs:.0f}, ratio {ratio:.3f} ",
        end="",
    )
    print(f"({given.pairs} pairs of {given.model}, {given.batch} at once, {given.steps} steps, {given.rounds} rounds)")


@torch.no_grad()
def loop(backbone: Backbone, run: RunFolder, settings: Sampling, out: Path) -> None:
    """What a script of a page does: prompts and their first degraded ones through the pipeline, latents to files."""
    out.mkdir(exist_ok=True)
    rows = read_rows(run.prompts)
    for first in range(0, settings.pairs, settings.batch):
        part = [rows[number % len(rows)] for number in range(first, min(first + settings.batch, settings.pairs))]
        prompts = [row["prompt"] for row in part] + [row["degraded"][0]["text"] for row in part]
        noise = randomness.normal(range(first, first + len(part)), backbone.latent_shape).to(backbone.device)
        latents = backbone.pipeline(
            prompts,
            latents=backbone.pack(torch.cat([noise, noise]).to(backbone.compute_dtype)),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            output_type="latent",
            return_dict=False,
            **backbone.call,
        )[0]
        for number, (win, lose) in enumerate(zip(*latents.half().cpu().chunk(2), strict=True), start=first):
            save_file({"win": win.clone(), "lose": lose.clone()}, out / f"{number:06d}.safetensors")


if __name__ == "__main__":
    main()
