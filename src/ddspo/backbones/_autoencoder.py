"""Images and latents in model space: what a denoiser sees, scaled and shifted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Resize = Literal["crop", "stretch", "pad"]
"""How an image of another shape is made to fit: cut around its centre, distorted, or filled up at its edges."""
MODES = {"crop": "crop", "stretch": "default", "pad": "fill"}
"""The same in diffusers' words."""
PIXELS = 1024 * 1024
"""Of images that go through an autoencoder at once: a layer of 128 channels then takes 512 MiB in single precision."""


@dataclass(frozen=True)
class Autoencoder:
    """A pipeline's autoencoder and image processor: latent = (code - mean) / std * scaling_factor.

    The mean is `shift_factor`, or `latents_mean` for each channel; most models have neither. FLUX.2 has running
    statistics of each place in its patches: a latent is such a patch, its places are the channels. However many
    images it is given, it takes `PIXELS` at a time, or one image that has more.

    Attributes:
        vae: The network.
        processor: Between its images and arrays.
        scale: Pixels that a latent has to a side.
        patch: Numbers of the code to a side that are one latent.
    """

    vae: Any
    processor: Any
    scale: int
    patch: int = 1

    def decode(self, latents: Tensor) -> list[np.ndarray]:
        """Images [H, W, 3] uint8 of latents [N, C, h, w]."""
        step = at_once(latents.shape[2] * latents.shape[3] * self.scale**2)
        parts = (latents[first : first + step] for first in range(0, len(latents), step))
        return [image for part in parts for image in self._decode(part)]

    def fit(self, image: np.ndarray, height: int, width: int, resize: Resize) -> np.ndarray:
        """An image [H, W, 3] uint8 of any size as [height, width, 3]."""
        return np.asarray(self.processor.resize(Image.fromarray(image), height, width, MODES[resize]))

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Latents [N, C, h, w] float32 of images [H, W, 3] uint8 of one size."""
        mean, std = self._statistics()
        codes = nn.functional.pixel_unshuffle(torch.cat(list(self._codes(images))), self.patch)
        return (codes - mean) / std * self._factor

    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """The code of images of one size, averaged over 4 x 4 cells: [N, F] float32 on the CPU."""
        codes = self._codes(images)
        return torch.cat([nn.functional.adaptive_avg_pool2d(code, 4).flatten(1).cpu() for code in codes])

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] within -1 ... 1 of as many latents as fit at once."""
        mean, std = self._statistics()
        code = nn.functional.pixel_shuffle(latents.to(self.vae.device) / self._factor * std + mean, self.patch)
        code = code.to(self.vae.dtype)
        images: Tensor = self.vae.decode(code.unsqueeze(2) if self._timed else code, return_dict=False)[0]
        return images.squeeze(2) if self._timed else images

    def _decode(self, latents: Tensor) -> list[np.ndarray]:
        images = self.processor.postprocess(self.decoded(latents), output_type="np")
        return list((np.nan_to_num(images) * 255).round().astype(np.uint8))  # what is no number is black

    def _codes(self, images: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """The code of as many images as fit at once, and of the next."""
        step = at_once(images[0].shape[0] * images[0].shape[1])
        for first in range(0, len(images), step):
            yield self.code(self._pixels(images[first : first + step]))

    def _pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        return self.processor.preprocess(np.stack(images).astype(np.float32) / 255)

    @torch.no_grad()
    def code(self, x: Tensor) -> Tensor:
        """The code [N, C, h, w] float32 of as many images [N, 3, H, W] within -1 ... 1 as fit at once."""
        x = x.to(self.vae.device, self.vae.dtype)
        found = self.vae.encode(x.unsqueeze(2) if self._timed else x, return_dict=False)[0]
        code = (found if isinstance(found, Tensor) else found.mode()).float()  # AutoencoderDC has no distribution
        return code.squeeze(2) if self._timed else code

    @property
    def _timed(self) -> bool:
        """Whether it is one of videos, which sees an image as a video of one frame, [N, C, 1, H, W]."""
        return "temperal_downsample" in self.vae.config

    @property
    def _factor(self) -> float:
        return float(self.vae.config.get("scaling_factor", 1.0))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """[1, C or 1, 1, 1] each."""
        from diffusers import AutoencoderKLFlux2

        config, device = self.vae.config, self.vae.device
        if isinstance(self.vae, AutoencoderKLFlux2):
            running = self.vae.bn.running_mean, (self.vae.bn.running_var + config.batch_norm_eps).sqrt()
            return running[0].float().view(1, -1, 1, 1), running[1].float().view(1, -1, 1, 1)
        mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0], device=device)
        std = torch.tensor(config.get("latents_std") or [1.0], device=device)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def at_once(pixels: int) -> int:
    """Images of so many pixels each."""
    return max(1, PIXELS // pixels)
