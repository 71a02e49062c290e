"""CLIP of transformers with its tokenizer: unit vectors of texts and images, and their cosines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from ddspo.backbones._loading import load_network
from ddspo.backbones._model import short
from ddspo.errors import InputError
from ddspo.metrics._tensors import load_tokenizer, network_with
from ddspo.metrics.base import Score
from ddspo.weights import Hub

OPENAI = "openai/clip-vit-large-patch14"
"""The CLIP that most scores were made with."""
DIGITS = 6
"""Decimals of a score: more are of the order of the sums, not of the image."""


@dataclass(frozen=True)
class Clip:
    """Both networks of a CLIP on a device, and the tokenizer."""

    network: Any
    tokenizer: Any

    @property
    def side(self) -> int:
        """Pixels of the square images that it reads."""
        return int(self.network.config.vision_config.image_size)

    @property
    def scale(self) -> torch.Tensor:
        """exp(logit_scale): what cosines were multiplied by in training."""
        return self.network.logit_scale.detach().float().exp().cpu()

    @torch.no_grad()
    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit vectors [N, width] of normalised images [N, 3, side, side]."""
        batch = pixels.to(self.network.device, self.network.dtype)
        pooled = self.network.vision_model(pixel_values=batch).pooler_output
        return _unit(self.network.visual_projection(pooled))

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [N, width] of texts: of a long one the first tokens count, and the end token follows them."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.network.device)
        pooled = self.network.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return _unit(self.network.text_projection(pooled))

    def cosines(self, pixels: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """cos(image, prompt) of each normalised image [N, 3, side, side] and its row's prompt: [N]."""
        return (self.images(pixels) * self.texts([str(row["prompt"]) for row in rows])).sum(-1)


def clip_weights(place: str, revision: str | None) -> Hub:
    """OpenAI's CLIP ViT-L/14, or another: a folder or hub id.

    The model's page on the hub states no licence; the weights were published with OpenAI's code, which is MIT.
    """
    return Hub(size=1.71e9, licence="MIT", commercial=True, place=place, revision=revision)


def load_clip(where: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Clip:
    """A CLIP as transformers saves it.

    Raises:
        InputError: Files are missing or damaged, or of another network.
    """
    from transformers import CLIPModel

    network: Any = load_network(where, CLIPModel, folder, None, dtype)
    return Clip(network.to(device), _tokenizer(where, folder, network.config.text_config))


def build_clip(
    where: str, folder: Path, weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Clip:
    """A CLIP of a folder's configuration and tokenizer, with weights from elsewhere.

    Raises:
        InputError: Its files are missing or damaged, or the weights are of another network.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        config = CLIPConfig.from_pretrained(folder)
    except Exception as error:  # transformers has a dozen types for what is missing or damaged
        raise InputError(f"{where}: configuration not loaded: {short(error)}: get its files anew") from None
    network = network_with(where, CLIPModel, config, weights, dtype=dtype)
    return Clip(network.to(device), _tokenizer(where, folder, network.config.text_config))


def scores(values: torch.Tensor) -> list[Score]:
    """Scores of numbers [N]."""
    return [Score(round(float(value), DIGITS)) for value in values]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return normalize(vectors.float(), dim=-1).cpu()


def _tokenizer(where: str, folder: Path, encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    return load_tokenizer(where, CLIPTokenizer, folder, encoder, model_max_length=encoder.max_position_embeddings)
