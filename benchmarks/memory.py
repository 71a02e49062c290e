"""Bytes of real models in training, from their configurations alone: `python benchmarks/memory.py [MODEL ...]`.

Prints the tables of docs/performance.md. Networks are built on the "meta" device: no weights, no accelerator.
`python benchmarks/memory.py --recipes` rewrites the line "# Needs:" of every recipe of a real model.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import diffusers
from outlines import names, read, write

from ddspo import components
from ddspo.adaptations.base import Adaptation
from ddspo.backbones.base import Model
from ddspo.cost.memory import in_training, others_bytes
from ddspo.cost.shapes import model_outline
from ddspo.cost.speed import assumed, seconds
from ddspo.cost.table import with_unit
from ddspo.cost.total import cost
from ddspo.policy_pairs.base import PolicyPair
from ddspo.prompts.source import Source
from ddspo.recipe import Recipe, load

RECIPES = Path(__file__).parents[1] / "recipes/paper"
ARCHITECTURES = {
    "sd14": "sd15",
    "sd35": "sd35-medium",
    "sana": "sana-600m",
    "flux": "flux-dev",
    "pixart": "pixart-sigma",
}
"""Of recipes whose first word is no architecture's name."""
PAIRS = ("training_free", "data_driven")
ADAPTATIONS = ("lora", "full")
RATE = 100 * 10**12
"""Operations a second of the hours in the recipes' headers: an example, not a measurement."""
OFFICIAL = {"training_free": 1, "data_driven": 3}
"""Frozen copies of the network beside the trained one in the official code, for Stable Diffusion 1.x and XL."""


def main() -> None:
    """Print both tables for some models, or for all."""
    diffusers.utils.logging.set_verbosity_error()
    wanted = sys.argv[1:] or names()
    print("| model | parameters | published | difference | buffers |\n|---|---|---|---|---|")
    for name in wanted:
        print(parameters_row(name), flush=True)
    print("\n| model | text encoders, autoencoder | " + " | ".join(_columns()) + " |\n|---" + "|---" * 7 + "|")
    for name in wanted:
        print(memory_row(name), flush=True)


def parameters_row(name: str) -> str:
    """Parameters of the denoiser against what its authors published, and the numbers in its buffers."""
    given = read(name)
    with _folder(name) as model:
        denoiser = model_outline(model).denoiser
    count = sum(each.numel() for each in denoiser.parameters())
    buffers = sum(each.numel() for each in denoiser.buffers())
    published = given["published_denoiser_parameters"]
    cells = [
        f"{count / 1e6:,.1f} M",
        f"{published / 1e6:,.0f} M",
        f"{count / published - 1:+.1%}",
        f"{buffers / 1e6:,.1f} M",
    ]
    return f"| {given['title']} | " + " | ".join(cells) + " |"


def memory_row(name: str) -> str:
    """Bytes of the denoiser's weights, gradients and moments, half precision where frozen."""
    with _folder(name) as model:
        devices = {
            (adaptation, pair): in_training(_recipe(model, adaptation, pair), model_outline(model))
            for adaptation in ADAPTATIONS
            for pair in PAIRS
        }
        others = sum(others_bytes(model_outline(model)).values())
    full = devices["full", "training_free"]
    cells = [each.total_bytes - each.activations_bytes for each in devices.values()]
    held = [16 * full.trained_bytes // 4 + copies * full.frozen_bytes for copies in OFFICIAL.values()]
    official = held if read(name)["backbone"] in ("sd", "sdxl") else [None, None]
    return f"| {read(name)['title']} | " + " | ".join(map(_gib, [others, *cells, *official])) + " |"


def needs(path: Path) -> str:
    """The line "# Needs:" of a recipe's header, by what `ddspo show --cost` counts."""
    first = path.stem.partition("-")[0]
    with _folder(ARCHITECTURES.get(first, first)) as model:
        given = load(path, [f"model.path={model.path}", "model.variant=null"])
        # How many pairs a dataset has is known to who has it: its recipe says what one takes.
        found = cost(
            replace(given, dataset=replace(given.dataset, source="owner/name", pairs=1)) if given.dataset else given
        )
    pairs, device = (with_unit("_bytes", size) for size in (found.disk.pairs_bytes, found.most_bytes))
    hours = sum(seconds(found, assumed(given, RATE, found)).values()) / 3600
    which = "a pair" if given.dataset else "for pairs"
    return (
        f"# Needs: {pairs} of disk {which}; {device} of accelerator memory; "
        f"{hours:,.0f} hours at {with_unit('_flops', RATE)}/s"
    )


def rewrite() -> None:
    """Write every recipe's line anew."""
    diffusers.utils.logging.set_verbosity_error()
    for path in sorted(RECIPES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if re.search("^# Needs:", text, re.MULTILINE):
            path.write_text(re.sub("^# Needs:.*$", needs(path), text, count=1, flags=re.MULTILINE), encoding="utf-8")
            print(path.stem, flush=True)


def _columns() -> list[str]:
    ours = [f"{adaptation}, {pair}" for adaptation in ADAPTATIONS for pair in PAIRS]
    return [*ours, *(f"official, full, {pair}" for pair in OFFICIAL)]


def _recipe(model: Model, adaptation: str, pair: str) -> Recipe:
    return Recipe(
        name="memory",
        model=model,
        prompts=Source("prompts.txt"),
        adaptation=components.find(Adaptation, adaptation)(),
        policy_pair=components.find(PolicyPair, pair)(),
    )


@contextmanager
def _folder(name: str) -> Iterator[Model]:
    with tempfile.TemporaryDirectory() as scratch:
        yield Model(str(write(name, Path(scratch))), dtype="bf16")


def _gib(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**30:.2f} GiB"


if __name__ == "__main__":
    rewrite() if sys.argv[1:] == ["--recipes"] else main()
