"""What a backbone is: a diffusers pipeline that reads prompts and predicts. It has never heard of preferences."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from ddspo import randomness
from ddspo.backbones._autoencoder import Autoencoder, Resize
from ddspo.backbones._denoiser import WithDenoiser
from ddspo.backbones._folder import check_channels, check_parts, check_weights, networks_of
from ddspo.backbones._loading import load_pipeline, save_pipeline
from ddspo.backbones._model import Found as Found
from ddspo.backbones._model import Model as Model
from ddspo.backbones._model import look_up as look_up
from ddspo.backbones._offload import apart, serve
from ddspo.backbones._quantize import check_quantization, compute_dtype, quantize
from ddspo.backbones._readers import Cut, Reader, readers_of
from ddspo.backbones._schedule import calls_of, noise_path, own_scheduler
from ddspo.conditions import Condition
from ddspo.errors import InputError
from ddspo.maths.paths import NoisePath

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(WithDenoiser, ABC):
    """One family of pipelines. Subclasses say how a prompt is read and how a tiny one is made."""

    pipeline_class: "ClassVar[type[DiffusionPipeline]]"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Modules that LoRA adapts where a recipe names none."""
    guidance: ClassVar[float]
    """Guidance scale that the family is usually sampled with."""
    lower: ClassVar[bool] = False
    """Whether the pipeline makes prompts lower case first."""
    may_lack: ClassVar[tuple[str, ...]] = ()
    """Parts that a folder may have been saved without."""
    patch: ClassVar[int] = 1
    """Numbers of a latent that the denoiser takes as one position of its input."""
    steps: ClassVar[int]
    """Sampler steps that the family is usually sampled with."""
    draws_smaller: ClassVar[bool] = False
    """Whether the family also draws well at half of its usual side."""
    long_text: ClassVar[int | None] = None
    """Tokens that a language model reads if not told otherwise, the pipeline's own default; None: only CLIPs read."""

    def __init__(
        self,
        pipeline: Any,
        *,
        resolution: int | None = None,
        max_length: int | None = None,
        distilled_guidance: float | None = None,
        offload: bool = False,
    ) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        self.resolution = resolution
        self.max_length = max_length or self.long_text
        self.distilled_guidance = distilled_guidance
        self.offload = offload
        name = type(pipeline).__name__
        if max_length and not self.long_text:
            raise InputError(f"model.max_length {max_length}: a {name} has no text encoder but CLIP: leave it out")
        if distilled_guidance is not None and not self.config.get("guidance_embeds"):
            raise InputError(f"model.distilled_guidance: this {name} has no guidance input: leave it out")
        if resolution and resolution % self._multiple:
            raise InputError(f"model.resolution {resolution}: give a multiple of {self._multiple} to a {name}")
        if offload:
            serve(self.denoiser)

    @classmethod
    def load(cls, model: Model) -> Self:
        """Load a pipeline folder or hub id.

        Raises:
            InputError: There is no such model, it cannot be reached or loaded, it is of another class, it is not
                whole, or it has no use for an option.
        """
        found = cls.check(model)
        pipeline: Any = load_pipeline(cls.pipeline_class, found, model, cls.dtypes(DTYPES[model.dtype]))
        if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.get("force_upcast"):
            pipeline.vae.to(torch.float32)  # its activations overflow; diffusers' pipelines cast it at every decoding
        if model.quantize:
            quantize(getattr(pipeline, cls.denoiser_name), model.quantize)
        return cls.of(pipeline, found.told(model))

    @classmethod
    def check(cls, model: Model, *, weights: bool = True) -> Found:
        """Look a model up, and at its configuration, without loading its weights.

        Args:
            model: The model.
            weights: Whether they are to be loaded later, so that their files must be there.

        Raises:
            InputError: There is no such model, it cannot be reached, it is of another class or not whole, or it
                cannot be quantised here.
        """
        found, kind = look_up(model), cls.pipeline_class
        if found.pipeline_class != kind.__name__:
            raise InputError(
                f"{found.where}: it is a {found.pipeline_class}, and model.backbone {model.backbone} reads "
                f"{kind.__name__}: leave model.backbone out"
            )
        check_parts(found, kind, cls.may_lack)
        check_channels(found, cls.denoiser_name, cls.patch)
        own_scheduler(found)
        if weights and model.quantize:
            check_quantization(model.quantize, PartialState().device)
        if weights and not found.online:
            check_weights(found, model, networks_of(found, kind))
        return found

    @classmethod
    def of(cls, pipeline: Any, model: Model) -> Self:
        """A pipeline, read as a recipe's model says.

        Raises:
            InputError: An option has no meaning for it, or its scheduler is one of another kind of model.
        """
        backbone = cls(
            pipeline,
            resolution=model.resolution,
            max_length=model.max_length,
            distilled_guidance=model.distilled_guidance,
            offload=model.offload,
        )
        assert backbone.path
        return backbone

    @classmethod
    def dtypes(cls, wanted: torch.dtype) -> dict[str, torch.dtype]:
        """Precision of the parts, by name in the pipeline."""
        return {"default": wanted}

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A random pipeline of the real classes that runs anywhere in seconds, offline."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """What the pipeline computes of some prompts and `predict` takes, each [len(prompts), ...]."""

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Call the denoiser as the pipeline does, everything in its precision."""
        return denoiser(x_t, t, **condition, return_dict=False)[0]

    def predict(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction of `denoiser` (this backbone's, wrapped, copied or adapted) for [N, *latent_shape], [N]."""
        dtype = compute_dtype(denoiser)
        cast = {name: rows.to(dtype) if rows.is_floating_point() else rows for name, rows in condition.items()}
        return self.forward(denoiser, x_t.to(dtype), t, cast)

    def readers(self) -> list[Reader]:
        """The text encoders that the pipeline has."""
        return readers_of(self.pipeline, self.max_length, lower=self.lower)

    def too_long(self, prompts: Sequence[str]) -> list[Cut]:
        """Prompts that lose their end in a text encoder, and the words that it does not read."""
        return [cut for reader in self.readers() for cut in reader.cuts(prompts)]

    @property
    def usual(self) -> tuple[int, float]:
        """Sampler steps and guidance scale that the model is usually sampled with."""
        return self.steps, self.guidance

    @property
    def path(self) -> NoisePath:
        """The forward process of training, from the scheduler's own configuration."""
        return noise_path(self.pipeline.scheduler, self.tokens)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        return self.config.in_channels, *self._sides(self.config.sample_size)

    @property
    def scale(self) -> int:
        """Pixels that a latent has to a side."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def tokens(self) -> int:
        """Positions at which a transformer sees one latent."""
        _, height, width = self.latent_shape
        return height * width // self.config.get("patch_size", 1) ** 2

    @property
    def call(self) -> dict[str, Any]:
        """What a plain pipeline call needs to be told to do as this backbone does."""
        _, height, width = self.latent_shape
        read = {"max_sequence_length": self.max_length} if self.long_text else {}
        return {"height": height * self.scale, "width": width * self.scale} | read

    def to(self, device: torch.device | str) -> Self:
        """Move every part to a device, except weights that wait in main memory."""
        with apart(self.denoiser) if self.offload else nullcontext():
            self.pipeline.to(device)
        return self

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        """The initial latents of sampling: one seed an item, whatever the batch."""
        noise = randomness.normal(seeds, self.latent_shape)
        return noise.to(self.device, self.compute_dtype)

    @classmethod
    def guides(cls, found: Found) -> bool:
        """Whether a model can be guided at all; some that were distilled to a few steps cannot."""
        return True

    def evaluations(self, steps: int, guidance: float) -> int:
        """Predictions that one sampled latent takes: as many as the scheduler asks for, twice that under guidance."""
        return calls_of(self.pipeline.scheduler, steps) * (2 if guidance > 1 else 1)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """Sample latents in model space, [N, *latent_shape] float32, with the pipeline's own scheduler.

        The seeds decide the initial noise, and what a scheduler that draws noise at every step draws.
        """
        told = self.guided(guidance, len(prompts))
        return self.unpack(self.drawn(prompts, seeds, num_inference_steps=steps, **told)).float()

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """What the pipeline's own call leaves, told `options` beside what it is always told."""
        result = self.pipeline(
            **{"prompt": list(prompts)} | options,
            latents=self.pack(self.initial_noise(seeds)),
            generator=[torch.Generator().manual_seed(randomness.stable_seed(seed, "sampler")) for seed in seeds],
            output_type="latent",
            return_dict=False,
            **self.call,
        )
        latents: Tensor = result[0]
        return latents

    def guided(self, guidance: float, count: int) -> dict[str, Any]:
        """What the pipeline's call is told of guidance, 1 being none, for so many prompts."""
        return {"guidance_scale": guidance}

    def pack(self, latents: Tensor) -> Tensor:
        """Latents as the pipeline's call takes them."""
        return latents

    def unpack(self, latents: Tensor) -> Tensor:
        """The inverse of `pack`."""
        return latents

    @property
    def autoencoder(self) -> Autoencoder:
        """Between images and latents."""
        pipeline = self.pipeline
        return Autoencoder(pipeline.vae, pipeline.image_processor, self.scale)

    def decode(self, latents: Tensor) -> list[np.ndarray]:
        """Images of latents in model space, each [H, W, 3] uint8."""
        return self.autoencoder.decode(latents)

    def fit(self, image: np.ndarray, resize: Resize = "crop") -> np.ndarray:
        """An image [H, W, 3] uint8 of any size, made to fit this model: cropped around its centre, or as told."""
        return self.autoencoder.fit(image, self.call["height"], self.call["width"], resize)

    def to_latents(self, images: Sequence[np.ndarray]) -> Tensor:
        """Latents in model space, float32 [N, *latent_shape], no noise, of images [H, W, 3] uint8, made to fit."""
        return self.autoencoder.encode([self.fit(image) for image in images])

    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """The autoencoder's own code of images of one size, averaged over 4 x 4 cells: [N, F] float32."""
        return self.autoencoder.features(images)

    def save(self, folder: Path) -> None:
        """Write the whole pipeline as a diffusers folder, with what it was told of sides and lengths."""
        length = None if self.max_length == self.long_text else self.max_length
        save_pipeline(self.pipeline, self.denoiser_name, folder, {"resolution": self.resolution, "max_length": length})

    @property
    def _multiple(self) -> int:
        """What sides in pixels must be a multiple of."""
        return self.pipeline.image_processor.config.vae_scale_factor * self.config.get("patch_size", 1)

    def _sides(self, made_for: Any) -> tuple[int, int]:
        if self.resolution:
            return (self.resolution // self.scale,) * 2
        height, width = (made_for, made_for) if isinstance(made_for, int) else made_for
        return height, width
