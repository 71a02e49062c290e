"""Recipes for people's cards: what `ddspo align` plans for the models of `architectures/`, by card.

    python benchmarks/cards.py                 # recipes/24gb/*.yaml and recipes/12gb/*.yaml anew
    python benchmarks/cards.py 24 flux-dev     # one of them

Nothing is measured: rate of operations and main memory are assumed, and every judge is taken to be at hand. A model
that fits no card is told of in a line, and has no recipe. `tests/test_recipes_for_cards.py` holds headers against
`--cost`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import diffusers
from outlines import write

from ddspo.align import command
from ddspo.align.judges import Panel
from ddspo.align.machine import Machine, machine_of
from ddspo.align.wish import Wish
from ddspo.errors import InputError

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = {
    "sd15": ("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sdxl": ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
    "sd35-medium": ("sd35-medium", "stabilityai/stable-diffusion-3.5-medium"),
    "flux-dev": ("flux-dev", "black-forest-labs/FLUX.1-dev"),
    "flux2-klein-4b": ("flux2-klein-4b", "black-forest-labs/FLUX.2-klein-base-4B"),
    "chroma": ("chroma", "lodestones/Chroma1-HD"),
    "auraflow": ("auraflow", "fal/AuraFlow-v0.3"),
    "sana": ("sana-1600m", "Efficient-Large-Model/Sana_1600M_1024px_diffusers"),
    "pixart": ("pixart-sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"),
    "cogview4": ("cogview4", "THUDM/CogView4-6B"),
    "kolors": ("kolors", "Kwai-Kolors/Kolors-diffusers"),
    "pixart-alpha": ("pixart-alpha", "PixArt-alpha/PixArt-XL-2-1024-MS"),
    "lumina2": ("lumina2", "Alpha-VLLM/Lumina-Image-2.0"),
    "z-image": ("z-image", "Tongyi-MAI/Z-Image"),
    "z-image-turbo": ("z-image-turbo", "Tongyi-MAI/Z-Image-Turbo"),
    "qwen-image": ("qwen-image", "Qwen/Qwen-Image"),
}
"""Architecture and hub id of each recipe."""
CARDS = (24, 12)
"""GiB."""
HOST, HOSTS = 64, {"qwen-image": 96}
"""GiB of main memory, and of models that have more than that while they are loaded."""
HOURS = {
    "sd15": 2,
    "sana": 4,
    "pixart": 4,
    "kolors": 6,
    "cogview4": 12,
    "pixart-alpha": 4,
    "sdxl": 6,
    "sd35-medium": 6,
    "flux-dev": 12,
    "chroma": 12,
    "auraflow": 12,
    "flux2-klein-4b": 6,
    "lumina2": 6,
    "z-image": 12,
    "z-image-turbo": 6,
    "qwen-image": 24,
}
"""An evening, or a night."""
NOT_TRIED = """\
# Not run here: planned from the model's configuration alone. Rate, inverse temperature, pairs and updates were
#   tuned on the miniature and never at this size; the gap that the inverse temperature is made of is assumed.
# Sources: LoRA of rank 16 on attention, bf16, few pairs at once: the presets of kohya, OneTrainer and ai-toolkit
"""
UNETS = ("sd15", "sdxl", "kolors")
UNET = "#   weights of a U-Net are not quantised: SimpleTuner and ai-toolkit leave it off for them, for quality\n"
NF4 = "#   nf4 with 8-bit AdamW and max_grad_norm .01: SimpleTuner's quickstart of FLUX\n"


def machine(wish: Wish, *, dry: bool) -> Machine:
    """A card of the size that is asked for in a machine that has the main memory of many."""
    found, host = machine_of(wish, dry=dry), HOSTS.get(wish.name.rpartition("-")[0], HOST)
    return replace(found, host=host * 2**30, title=f"{found.title} beside {host} GiB of main memory")


def recipe(name: str, gib: int) -> str:
    """The text of one.

    Raises:
        InputError: The model does not fit the card, or the hours.
    """
    architecture, hub_id = MODELS[name]
    hours = HOURS[name]
    asked = f"ddspo align {hub_id} --memory {gib}GB --budget {hours}h --dry-run"
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(write(architecture, Path(scratch) / architecture))
        wish = Wish(folder, hours * 3600.0, f"{name}-{gib}gb", memory=gib * 2**30)
        text = command.plan_of(wish, asked, lambda line: None, dry=True).text
    first, _, rest = text.replace(folder, hub_id).partition("\n#\n")
    sources = NOT_TRIED + (UNET if architecture in UNETS else NF4 if "quantize: nf4" in rest else "")
    return f"{first}\n{sources}#\n{rest}"


def main() -> None:
    """Write those that are asked for, or all."""
    diffusers.utils.logging.set_verbosity_error()
    command.machine_of = machine
    command.panel = lambda judges, guards: Panel([*judges, *guards], "clip_score", ())  # no network is asked
    cards = [int(sys.argv[1])] if sys.argv[1:] else CARDS
    for gib in cards:
        for name in sys.argv[2:] or MODELS:
            path = RECIPES / f"{gib}gb" / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            try:
                path.write_text(recipe(name, gib), encoding="utf-8")
                print(path, flush=True)
            except InputError as error:
                print(f"{path}: {error}", flush=True)


if __name__ == "__main__":
    main()
