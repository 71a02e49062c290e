"""What a backbone is: a diffusers pipeline that reads prompts and predicts. It has never heard of preferences."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import Doc

from ddspo import draws
from ddspo.errors import InputError
from ddspo.maths.paths import DDPM, NoisePath
from ddspo.policy_pairs.base import Condition

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGE = "package://"


@dataclass(frozen=True)
class Model:
    """Where a diffusers pipeline comes from."""

    path: Annotated[str, Doc("a diffusers folder, a hub id, or package://PACKAGE/FOLDER")]
    backbone: Annotated[str, Doc("which file of ddspo/backbones reads it")] = "sd"
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    variant: Annotated[str | None, Doc("file variant of a hub id, for example fp16")] = None
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], Doc("precision of frozen weights and of autocast in training")
    ] = "fp32"


class Backbone(ABC):
    """One family of pipelines. Subclasses say how a prompt is read and how a tiny one is made."""

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Modules that LoRA adapts where a recipe names none."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, model: Model) -> Self:
        """Load a pipeline folder or hub id.

        Raises:
            InputError: There is no such model, it cannot be reached, or it is of another class.
        """
        found = check(model, cls.pipeline_class.__name__)
        optional = (
            {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in found.model_index else {}
        )
        pipeline = cls.pipeline_class.from_pretrained(
            found.name, revision=model.revision, variant=model.variant, dtype=DTYPES[model.dtype], **optional
        )
        return cls(pipeline)

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A random pipeline of the real classes that runs anywhere in seconds, offline."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """The denoiser's own keyword arguments for some prompts, each [len(prompts), ...]."""

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """Prompts that lose their end because they have more tokens than the text encoder reads."""
        tokenizer = self.pipeline.tokenizer
        lengths = map(len, tokenizer(list(prompts), verbose=False).input_ids)
        return [text for text, length in zip(prompts, lengths, strict=True) if length > tokenizer.model_max_length]

    @property
    def denoiser(self) -> nn.Module:
        """The network that predicts."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def path(self) -> NoisePath:
        """The forward process of training, from the scheduler's own configuration."""
        scheduler = self.pipeline.scheduler
        return DDPM(scheduler.alphas_cumprod.to(self.device), scheduler.config.prediction_type)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        config = self.pipeline.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def to(self, device: torch.device | str) -> Self:
        """Move every part to a device."""
        self.pipeline.to(device)
        return self

    def predict(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction of `denoiser` (this backbone's, wrapped, copied or adapted) for [N, C, H, W], [N]."""
        return denoiser(x_t, t, **condition, return_dict=False)[0]

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        """The initial latents of sampling: one seed an item, whatever the batch."""
        noise = draws.normal(seeds, self.latent_shape)
        return noise.to(self.device, next(self.denoiser.parameters()).dtype)

    def evaluations(self, steps: int, guidance: float) -> int:
        """Predictions that one sampled latent takes: as many as the scheduler asks for, twice that under guidance."""
        scheduler = self.pipeline.scheduler
        shifted = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(steps, **shifted)
        return len(scheduler.timesteps) * (2 if guidance > 1 else 1)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """Sample latents in model space, [N, C, H, W] float32, with the pipeline's own scheduler."""
        noise = self.initial_noise(seeds)
        result = self.pipeline(
            list(prompts),
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
            return_dict=False,
        )
        return result[0].float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[np.ndarray]:
        """Images of latents in model space, each [H, W, 3] uint8."""
        vae = self.pipeline.vae
        z = latents.to(self.device, vae.dtype) / vae.config.scaling_factor
        images = self.pipeline.image_processor.postprocess(vae.decode(z, return_dict=False)[0], output_type="np")
        return list((images * 255).round().astype(np.uint8))

    @torch.no_grad()
    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """The autoencoder's own code of images, averaged over 4 x 4 cells: [N, F] float32."""
        x = self.pipeline.image_processor.preprocess(np.stack(images).astype(np.float32) / 255)
        vae = self.pipeline.vae
        code = vae.encode(x.to(self.device, vae.dtype)).latent_dist.mode().float()
        return nn.functional.adaptive_avg_pool2d(code, 4).flatten(1)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter weights as the pipeline's own LoRA file, rank and alpha in its header."""
        name = self.denoiser_name
        self.pipeline.save_lora_weights(
            folder, **{f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
        )

    def read_lora(self, folder: Path) -> dict[str, Tensor]:
        """Adapter weights, named as `save_lora` was given them."""
        prefix = f"{self.denoiser_name}."
        weights = load_file(folder / "pytorch_lora_weights.safetensors")
        return {name.removeprefix(prefix): value for name, value in weights.items()}

    def load_lora(self, folder: Path) -> None:
        """Read a LoRA file as any user of diffusers would, and merge it, so that sampling costs what it did."""
        self.pipeline.load_lora_weights(folder)
        self.pipeline.fuse_lora()

    def save(self, folder: Path) -> None:
        """Write the whole pipeline as a diffusers folder."""
        self.pipeline.save_pretrained(folder)


@dataclass(frozen=True)
class Found:
    """A model that exists: what `from_pretrained` takes, and its model_index.json."""

    name: str
    model_index: dict[str, Any]


def check(model: Model, wanted: str) -> Found:
    """Look a model up without loading its weights.

    Raises:
        InputError: It does not exist, cannot be reached, or its pipeline class is not `wanted`.
    """
    folder = local(model.path)
    index = (folder / "model_index.json") if folder else _hub_index(model)
    if not index.is_file():
        raise InputError(f"model.path {model.path}: no model_index.json there: give a diffusers pipeline folder")
    found = Found(str(folder or model.path), json.loads(index.read_text()))
    if found.model_index.get("_class_name") != wanted:
        raise InputError(
            f"model.path {model.path}: it is a {found.model_index.get('_class_name')}, and model.backbone "
            f"{model.backbone} reads {wanted}"
        )
    return found


def local(path: str) -> Path | None:
    """The folder or file that a path means, or None if it can only be a hub id (NAME/NAME, nothing of it on disk)."""
    if path.startswith(PACKAGE):
        package, _, rest = path.removeprefix(PACKAGE).partition("/")
        return Path(str(resources.files(package))) / rest
    folder = Path(path).expanduser()
    hub_like = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return None if hub_like and not folder.exists() else folder


def _hub_index(model: Model) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model.path, "model_index.json", revision=model.revision))
    except Exception as error:  # the hub's client raises a dozen types, all of which mean the same to the user
        raise hub_error(model, error) from None


def hub_error(model: Model, error: Exception) -> InputError:
    """What the hub's client raised, as one line for the user."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"model.path {model.path}: no such folder here, and the hub did not answer for it ({reason[:160]}): "
        "check the name and the network, or give a local folder"
    )
