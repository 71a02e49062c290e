"""How far rounded weights move what is learned from: the reference's predictions, and a = target - reference.

    python benchmarks/quantized.py                                    # the embedded miniatures
    python benchmarks/quantized.py MODEL --dtype bf16                 # a diffusers folder or hub id
    python benchmarks/quantized.py MODEL --lora runs/NAME/aligned     # what a LoRA does to each, d, in place of a

Latents are the model's own samples, noised at uniform times; a is the training-free pair's, of the losing branch:
under the degraded prompt less under the prompt. d = policy - reference is 0 at the start, however weights are rounded.
"""

import argparse
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ddspo import components, randomness
from ddspo.backbones._model import Quantization
from ddspo.backbones.base import Backbone, Model
from ddspo.degradations.remove_words import RemoveWords
from ddspo.prompts.reading import read_prompts

BATCH = 32
MINIATURES = ("package://ddspo.scenes/noise", "package://ddspo.scenes/flow")
PROMPTS = "package://ddspo.scenes/data/validation.jsonl"


def main() -> None:
    """Print a row for every model and every way to round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MINIATURES)
    parser.add_argument("--prompts", default=PROMPTS)
    parser.add_argument("--latents", type=int, default=32)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--lora", type=Path)
    given = parser.parse_args()
    texts = [row["prompt"] for row in read_prompts(given.prompts, "--prompts")][: given.latents]
    degraded = [each[0].text for each in RemoveWords()(texts, range(len(texts)))]
    what = "d" if given.lora else "a"
    print(f"| model | rounded to | e moves by | {what}, of e | {what} moves by | cosine of the two {what} |")
    print("|---|---|---|---|---|---|")
    for path in given.models:
        plain = load(path, given.dtype)
        latents = torch.cat(
            [sampled(plain, texts[start : start + BATCH], start) for start in range(0, len(texts), BATCH)]
        )
        points = latents, texts, degraded
        before = learned_from(plain, given.lora, *points)
        for how in get_args(Quantization):
            after = learned_from(load(path, given.dtype, how), given.lora, *points)
            figures = " | ".join(f"{each:.2g}" for each in compared(before, after))
            print(f"| {path} | {how} | {figures} |", flush=True)


def load(path: str, dtype: Literal["fp32", "bf16", "fp16"], how: Quantization | None = None) -> Backbone:
    """The model, on a GPU if there is one."""
    model = Model(path, dtype=dtype, quantize=how)
    return components.backbone_of(model).load(model).to("cuda" if torch.cuda.is_available() else "cpu")


def sampled(backbone: Backbone, texts: list[str], start: int) -> Tensor:
    """Latents as the model is usually sampled."""
    return backbone.generate(texts, range(start, start + len(texts)), *backbone.usual)


def learned_from(
    backbone: Backbone, lora: Path | None, latents: Tensor, texts: list[str], degraded: list[str]
) -> tuple[Tensor, Tensor]:
    """Predictions of the reference, and a; or what a LoRA adds to them."""
    e, a = predictions(backbone, latents, texts, degraded)
    if not lora:
        return e, a
    backbone.load_lora(lora)
    return e, predictions(backbone, latents, texts, degraded)[0] - e


@torch.no_grad()
def predictions(backbone: Backbone, latents: Tensor, texts: list[str], degraded: list[str]) -> tuple[Tensor, Tensor]:
    """Of the reference under the prompts, e, and a = target - reference at the same points."""
    found = []
    for start in range(0, len(texts), BATCH):
        x0 = latents[start : start + BATCH]
        t = backbone.path.times(randomness.uniform(range(start, start + len(x0)))).to(x0.device)
        noise = randomness.normal(range(start, start + len(x0)), x0.shape[1:]).to(x0.device)
        x_t = backbone.path.noise(x0, noise, t)
        e, target = (
            backbone.predict(backbone.denoiser, x_t, t, backbone.encode(part[start : start + BATCH])).float()
            for part in (texts, degraded)
        )
        found.append((e, target - e))
    return torch.cat([e for e, _ in found]), torch.cat([a for _, a in found])


def compared(plain: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float, float, float]:
    """|e' - e| / |e|, |a| / |e|, |a' - a| / |a| and the cosine of a and a'."""
    (e, a), (e_other, a_other) = plain, other
    cosine = (a * a_other).sum() / a.norm() / a_other.norm()
    values = (e_other - e).norm() / e.norm(), a.norm() / e.norm(), (a_other - a).norm() / a.norm(), cosine
    return tuple(value.item() for value in values)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
