"""Trains a shipped miniature pipeline: `python -m ddspo.scenes.build OUT` (seeded, resumable, CPU hours or less).

Draws scenes, fits an AutoencoderKL, then fits text encoders and denoiser together on web-like captions, and saves the
exponential moving average of the weights as an ordinary pipeline folder in fp16: OUT/noise, a StableDiffusionPipeline,
or with `--miniature flow` OUT/flow, a StableDiffusion3Pipeline. Run it again to continue after an interruption; launch
it with

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m ddspo.scenes.build OUT

to use both cores of a small machine.
"""

import io
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from transformers import CLIPTokenizer

from ddspo.files import replace_atomically, write_rows
from ddspo.scenes.networks import MINIATURES, TOKENS, Miniature, make_autoencoder, make_tokenizer
from ddspo.scenes.prompts import SPLITS, TAGS, caption, contents, item, scene_for, split_items
from ddspo.scenes.world import Scene, render

MIX = TAGS + ("two_object", "counting") + ("position", "color_attr") * 2
"""How often each tag is drawn: what needs two things to be told apart takes longest to learn."""

LATENT_NOISE = 0.1
"""Standard deviation of the noise that the decoder learns to ignore, in units of the latents' own."""


@dataclass(frozen=True)
class Settings:
    """How long each part is trained."""

    miniature: str = "noise"
    scenes: int = 90_000
    autoencoder_steps: int = 2_500
    steps: int = 7_000
    batch: int = 128
    lr: float = 1e-3
    seed: int = 0
    save_every: int = 250
    start: str = ""


Captioned = tuple[Scene, str | None]


def draw(count: int, seed: int) -> tuple[np.ndarray, list[Captioned]]:
    """Random scenes of the six tags: images [count, 32, 32, 3] uint8, scenes and relations."""
    rng = np.random.default_rng(seed)
    choices = {tag: list(contents(tag)) for tag in TAGS}
    images, scenes = [], []
    for index in track(range(count), "drawing scenes"):
        tag = MIX[index % len(MIX)]
        include = choices[tag][rng.integers(len(choices[tag]))]
        scene = scene_for(item("", tag, include), rng)
        images.append(render(scene, rng))
        scenes.append((scene, include[1]["position"][0] if tag == "position" else None))
    return np.stack(images), scenes


def to_tensor(images: np.ndarray) -> Tensor:
    """[N, H, W, 3] uint8 to [N, 3, H, W] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit_autoencoder(autoencoder: AutoencoderKL, images: np.ndarray, steps: int, seed: int) -> None:
    """Reconstruct with |x - d(z + n)| + |x - d(z + n)|^2 and a weak pull of z to zero mean and unit variance."""
    rng = np.random.default_rng([seed, 1])
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.05)
    for step in track(range(steps), "fitting the autoencoder"):
        x = to_tensor(images[rng.integers(len(images), size=32)])
        z = autoencoder.encode(x).latent_dist.mode()
        spread = z.std(dim=(0, 2, 3), keepdim=True)
        y = autoencoder.decode(z + LATENT_NOISE * spread.detach() * torch.randn_like(z)).sample
        pull = (spread - 1).square().mean() + z.mean(dim=(0, 2, 3)).square().mean()
        loss = l1_loss(y, x) + 4 * mse_loss(y, x) + 0.01 * pull
        loss.backward()
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(json.dumps({"part": "autoencoder", "step": step, "loss": round(loss.item(), 5)}), flush=True)


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Latents of all images and, set in the autoencoder's config, the factor that gives them unit variance."""
    parts = [autoencoder.encode(to_tensor(images[i : i + 256])).latent_dist.mode() for i in range(0, len(images), 256)]
    latents = torch.cat(parts)
    autoencoder.register_to_config(scaling_factor=1.0 / latents.std().item())
    return latents * autoencoder.config.scaling_factor


def batch_at(
    step: int, settings: Settings, latents: Tensor, scenes: list[Captioned], tokenizer: CLIPTokenizer
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The global batch of one step, a function of seed and step only: x0, noise, u in (0, 1), tokens."""
    rng = np.random.default_rng([settings.seed, 2, step])
    rows = rng.integers(len(scenes), size=settings.batch)
    texts = ["" if rng.random() < 0.1 else caption(scenes[row][0], scenes[row][1], rng) for row in rows]
    noise = torch.from_numpy(rng.standard_normal((settings.batch, *latents.shape[1:]), dtype=np.float32))
    u = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, settings.batch).astype(np.float32))
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
    return latents[torch.from_numpy(rows)], noise, u, tokens


def fit_denoiser(
    model: Miniature,
    latents: Tensor,
    scenes: list[Captioned],
    tokenizer: CLIPTokenizer,
    settings: Settings,
    work: Path,
    accelerator: Accelerator,
) -> EMAModel:
    """Fit by plain denoising; checkpoints now and then in `work`; returns the average of the weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=min(0.05, 500 / settings.steps)
    )
    ema = EMAModel(model.parameters(), decay=0.999)
    state = work / f"{settings.miniature}.pt"
    start = _load(state, model, optimizer, schedule, ema) if state.exists() else 0
    wrapped = accelerator.prepare(model)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    began, running = time.monotonic(), 0.0
    for step in track(range(start, settings.steps), "fitting the denoiser", disable=not accelerator.is_main_process):
        loss = wrapped(*(part[share] for part in batch_at(step, settings, latents, scenes, tokenizer)))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        running += (loss.item() - running) / min(step - start + 1, 200)
        if accelerator.is_main_process and (step + 1) % settings.save_every == 0:
            rate = (step + 1 - start) * settings.batch / (time.monotonic() - began)
            row = {
                "part": settings.miniature,
                "step": step + 1,
                "loss": round(running, 5),
                "images_per_second": round(rate),
            }
            print(json.dumps(row), flush=True)
            _save(state, model, optimizer, schedule, ema, step + 1)
    return ema


def _save(path: Path, model: Any, optimizer: Any, schedule: Any, ema: EMAModel, step: int) -> None:
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _load(path: Path, model: Any, optimizer: Any, schedule: Any, ema: EMAModel) -> int:
    saved = torch.load(path, weights_only=True)
    for name, part in {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def build(out: Path, work: Path, settings: Settings) -> None:
    """Train everything and write `out`/MINIATURE and `out`/data; intermediate state lives in `work`."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    tokenizer = make_tokenizer()
    autoencoder, model = make_autoencoder(), MINIATURES[settings.miniature](tokenizer)
    if accelerator.is_main_process:
        print(json.dumps({"part": "settings", **asdict(settings)}), flush=True)
    images, scenes = draw(settings.scenes, settings.seed)
    if settings.start:
        model.start_from(Path(settings.start))
    elif accelerator.is_main_process and not (work / "autoencoder").exists():
        fit_autoencoder(autoencoder, images, settings.autoencoder_steps, settings.seed)
        autoencoder.save_pretrained(work / "autoencoder.tmp")
        os.replace(work / "autoencoder.tmp", work / "autoencoder")
    accelerator.wait_for_everyone()
    fitted = Path(settings.start) / "vae" if settings.start else work / "autoencoder"
    autoencoder = AutoencoderKL.from_pretrained(fitted)
    latents = encode_all(autoencoder, images)
    ema = fit_denoiser(model, latents, scenes, tokenizer, settings, work, accelerator)
    if accelerator.is_main_process:
        ema.copy_to(model.parameters())
        model.pipeline(autoencoder).to(dtype=torch.float16).save_pretrained(out / settings.miniature)
        write_data(out)
    accelerator.end_training()


def write_data(folder: Path) -> None:
    """Write the prompt files of the three splits, and fresh renders of the evaluation prompts as references."""
    for split in SPLITS:
        rows = [{"id": f"{split}-{number:04d}"} | row for number, row in enumerate(split_items(split))]
        write_rows(folder / "data" / f"{split}.jsonl", rows)
    rng = np.random.default_rng(7)
    images = [render(scene_for(row, rng), rng) for row in split_items("evaluation") for _ in range(3)]
    table = pa.table({"image": pa.array([_png(image) for image in images], pa.binary())})
    replace_atomically(folder / "data" / "references.parquet", lambda path: pq.write_table(table, path))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def main(
    out: Path,
    work: Annotated[Path, typer.Option(help="Where intermediate state is kept.")] = Path("runs/scenes-build"),
    miniature: Annotated[str, typer.Option(help=f"One of {', '.join(MINIATURES)}.")] = Settings.miniature,
    steps: Annotated[int, typer.Option(help="Updates of the denoiser.")] = Settings.steps,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = Settings.seed,
    start: Annotated[str, typer.Option("--from", help="A pipeline folder to go on from, made earlier.")] = "",
) -> None:
    """Train the miniature pipeline and write it to OUT."""
    build(out, work, Settings(miniature=miniature, steps=steps, seed=seed, start=start))


if __name__ == "__main__":
    typer.run(main)
