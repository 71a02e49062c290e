"""Better-looking images: pairs degraded in words of quality against pairs degraded in content.

    python benchmarks/quality.py --out runs/quality

A reference of its own is made first: the shipped miniature goes on with images of which a part is badly drawn
(blurred, with noise in their colours), and whose captions say so half of the time, `hd` or `ld` in place of the lead
("a photo of"). So it has begun to know two words of quality, and draws worse than it could where it is not told.
Then base and aligned draw held-out prompts as they are. Two arms with the recipe's settings and the same seeds:
`content` leaves words out, as the recipe does; `quality` degrades every prompt to the same one that begins with `ld`.
Less `drawing` is better. What is finished is kept when it is run again; `--table` prints what there is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from cheap_pairs import DISTANCE, METRIC, given_by, run
from diffusers import AutoencoderKL
from gains import by_tag_of, interval
from torch import Tensor

from ddspo import scenes as world
from ddspo.files import write_rows
from ddspo.rows import Row, read_json, read_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.scenes.build import Captioned, draw, to_tensor
from ddspo.scenes.networks import TOKENS, NoiseMiniature, make_tokenizer
from ddspo.scenes.prompts import LEADS, caption

RECIPE = Path("recipes/scenes.yaml")
WORLD = Path(str(world.__file__)).parent
SHIPPED = WORLD / "noise"
GOOD, BAD = "hd", "ld"
SCENES, UPDATES, BATCH, RATE = 16_000, 400, 64, 3e-4
SPOILT = 0.4
"""Share of the images that are badly drawn."""
DRAWN = "drawing"
ARMS = {"content": "", "quality": "degradation=given"}


def main() -> None:
    """Make the reference, run what is missing, print the table."""
    options = _options()
    out = Path(options.out)
    reference, prompts = out / "reference", out / "prompts.jsonl"
    if not options.table:
        if not reference.exists():
            teach(reference)
        write_rows(prompts, map(with_bad_words, read_rows(WORLD / "data/alignment.jsonl")))
    fixed = [f"out={out}", f"model.path={reference}", f"prompts={prompts}", "validation.every=0", "validation.final=0"]
    fixed += ["trackers=[]", "evaluate.scales=[3]", f"evaluate.images={options.images}"]
    metrics = "{geneval: {detector: scenes}}, drawing, {confident: {detector: scenes}}, "
    fixed += [f"evaluate.metrics=[{metrics}{{latent_distance: {{model: {SHIPPED}}}}}]"]
    print(f"| arm | seeds | {DRAWN}: base → aligned | difference | {METRIC} | difference | distance |\n{'|---' * 7}|")
    for name, arm in ARMS.items():
        folders = [RunFolder(given_by(RECIPE, [*fixed, f"seed={seed}"], arm).folder) for seed in options.seeds]
        for seed, folder in zip(options.seeds, folders, strict=True):
            if not options.table and not folder.report_json.exists():
                run(RECIPE, [*fixed, f"seed={seed}"], arm)
        done = [folder for folder in folders if folder.report_json.exists()]
        if done:
            print(row(name, done), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/quality")
    parser.add_argument("--seeds", nargs="+", type=int, default=[31, 32, 33])
    parser.add_argument("--images", type=int, default=2, help="of each prompt")
    parser.add_argument("--table", action="store_true", help="print what is finished, and run nothing")
    return parser.parse_args()


def with_bad_words(row: Row) -> Row:
    """A row whose one variant begins with the word for bad images in place of its lead."""
    return row | {"degraded": f"{BAD} {bare(row['prompt'])}"}


def bare(text: str) -> str:
    """A caption without its lead, so that a word of quality has room among the denoiser's tokens."""
    leads = [lead for split in LEADS.values() for lead in split]
    return next((text.removeprefix(lead).strip() for lead in leads if text.startswith(lead)), text)


def row(name: str, folders: Sequence[RunFolder]) -> str:
    """The table's row of an arm's finished runs."""
    cells = [name, str(len(folders))]
    for metric in (DRAWN, METRIC):
        scores = [read_json(folder.report_json, "")["metrics"][metric]["models"] for folder in folders]
        base, aligned = (mean(each[model]["score"] for each in scores) for model in MODELS)
        gains = [by_tag_of(folder, metric) for folder in folders]
        cells += [f"{base:.3f} → {aligned:.3f}", f"{aligned - base:+.3f} ({interval(gains)})"]
    sets = [read_json(folder.report_json, "")["sets"][DISTANCE]["models"] for folder in folders]
    base, aligned = (mean(each[model]["value"] for each in sets) for model in MODELS)
    return f"| {' | '.join([*cells, f'{base:.2f} → {aligned:.2f}'])} |"


def teach(folder: Path) -> None:
    """Go on with the shipped miniature on images of both kinds, captioned with their quality half of the time."""
    rng = np.random.default_rng(3)
    images, scenes = draw(SCENES, 3)
    bad = rng.random(SCENES) < SPOILT
    images[bad] = spoilt(images[bad], rng)
    torch.manual_seed(3)
    autoencoder = AutoencoderKL.from_pretrained(SHIPPED / "vae").float()
    latents = encoded(autoencoder, images)
    tokenizer = make_tokenizer()
    model = NoiseMiniature(tokenizer)
    model.start_from(SHIPPED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    for update in range(UPDATES):
        rows = rng.integers(SCENES, size=BATCH)
        texts = [words(scenes[each], bad[each], rng) for each in rows]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        noise = torch.from_numpy(rng.standard_normal((BATCH, *latents.shape[1:]), dtype=np.float32))
        u = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, BATCH).astype(np.float32))
        loss = model(latents[rows], noise, u, tokens.input_ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (update + 1) / 50, (UPDATES - update) / 100)
        optimizer.step()
        optimizer.zero_grad()
        if update % 50 == 0:
            print(f"reference: update {update} of {UPDATES}, loss {loss.item():.4f}", flush=True)
    made = folder.with_name(f"{folder.name}.tmp")
    model.pipeline(autoencoder).to(dtype=torch.float16).save_pretrained(made)
    made.rename(folder)


def words(scene: Captioned, bad: bool, rng: np.random.Generator) -> str:
    """A caption, which says the quality of every second image."""
    if rng.random() < 0.1:
        return ""
    text = caption(*scene, rng)
    return f"{BAD if bad else GOOD} {bare(text)}" if rng.random() < 0.5 else text


def spoilt(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Badly drawn: the mean over 3 x 3 pixels, and noise of 14 levels in every colour, [N, H, W, 3] uint8."""
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    shifts = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    blurred = np.mean(shifts, axis=0)
    return np.clip(blurred + rng.normal(0, 14, images.shape) + 0.5, 0, 255).astype(np.uint8)


@torch.no_grad()
def encoded(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Latents of images, in the scale of the shipped model."""
    parts = [autoencoder.encode(to_tensor(images[i : i + 256])).latent_dist.mode() for i in range(0, len(images), 256)]
    return torch.cat(parts) * autoencoder.config.scaling_factor


if __name__ == "__main__":
    main()
