"""Images and latents in model space: what a denoiser sees, scaled and shifted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Autoencoder:
    """A pipeline's autoencoder and image processor: latent = (code - mean) / std * scaling_factor.

    The mean is `shift_factor`, or `latents_mean` for each channel; most models have neither.
    """

    vae: Any
    processor: Any

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[np.ndarray]:
        """Images [H, W, 3] uint8 of latents [N, C, h, w]."""
        mean, std = self._statistics()
        code = latents.to(self.vae.device) / self.vae.config.scaling_factor * std + mean
        decoded = self.vae.decode(code.to(self.vae.dtype), return_dict=False)[0]
        images = self.processor.postprocess(decoded, output_type="np")
        return list((images * 255).round().astype(np.uint8))

    def encode(self, images: Sequence[np.ndarray], height: int, width: int) -> Tensor:
        """Latents [N, C, h, w] float32 of images [H, W, 3] uint8 of any sizes."""
        whole = [Image.fromarray(image) for image in images]
        x = torch.cat([self.processor.preprocess(one, height, width, resize_mode="crop") for one in whole])
        mean, std = self._statistics()
        return (self._code(x) - mean) / std * self.vae.config.scaling_factor

    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """The code of images of one size, averaged over 4 x 4 cells: [N, F] float32."""
        x = self.processor.preprocess(np.stack(images).astype(np.float32) / 255)
        return nn.functional.adaptive_avg_pool2d(self._code(x), 4).flatten(1)

    @torch.no_grad()
    def _code(self, x: Tensor) -> Tensor:
        code = self.vae.encode(x.to(self.vae.device, self.vae.dtype), return_dict=False)[0]
        return (code if isinstance(code, Tensor) else code.mode()).float()  # AutoencoderDC has no distribution

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """[1, C or 1, 1, 1] each."""
        config, device = self.vae.config, self.vae.device
        mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0], device=device)
        std = torch.tensor(config.get("latents_std") or [1.0], device=device)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
