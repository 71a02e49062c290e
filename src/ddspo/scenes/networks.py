"""The miniatures' networks with random weights, their tokenizer, and the pipelines that they make.

There are two, of the same size, for the same prompts: one that predicts noise as Stable Diffusion 1 does, and one that
predicts a flow as Stable Diffusion 3 does. Each is one module, so that text encoders and denoiser are trained,
averaged and distributed together; its forward is the loss of plain fine-tuning.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ModelMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from ddspo.scenes.prompts import LEADS, NUMBERS, PLURALS, RELATIONS
from ddspo.scenes.world import COLOURS, SHAPES

WIDTH = 96
TOKENS = 12


def make_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer in which each of the world's words is one token; anything else is spelt in letters."""
    leads = " ".join(lead for split in LEADS.values() for lead in split)
    text = " ".join([leads, *SHAPES, *PLURALS.values(), *COLOURS, *NUMBERS.values(), *RELATIONS, "and"])
    merges: list[tuple[str, str]] = []
    for word in sorted(set(text.split())):
        pieces = _apply(merges, word)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _apply(merges, word)
    letters = [chr(code) for code in range(33, 127)]
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab += ["".join(pair) for pair in merges]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(vocab))},
        merges=merges,
        model_max_length=TOKENS,
    )


def _apply(merges: list[tuple[str, str]], word: str) -> list[str]:
    """Byte-pair encoding: while a known pair stands side by side, the oldest such pair is joined."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    rank = {pair: place for place, pair in enumerate(merges)}
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in rank]
        if not pairs:
            return pieces
        first = min(pairs, key=lambda pair: rank[pair])
        at = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == first)
        pieces[at : at + 2] = ["".join(first)]


def make_autoencoder() -> AutoencoderKL:
    """32 x 32 images to 8 x 8 x 8 latents."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
    )


class Miniature(nn.Module, ABC):
    """Text encoders and denoiser; `forward` is the loss of plain fine-tuning."""

    @abstractmethod
    def forward(self, x0: Tensor, noise: Tensor, u: Tensor, tokens: Tensor) -> Tensor:
        """Loss of latents and noise [B, 8, 8, 8], a time in (0, 1) each [B], and tokens [B, 12]."""

    @abstractmethod
    def pipeline(self, autoencoder: AutoencoderKL) -> DiffusionPipeline:
        """The parts as an ordinary pipeline."""

    def start_from(self, folder: Path) -> None:
        """Take the weights of the pipeline that was saved in `folder`."""
        for name, part in self.pipeline(make_autoencoder()).components.items():
            if name != "vae" and isinstance(part, ModelMixin | PreTrainedModel):
                part.load_state_dict(type(part).from_pretrained(folder / name).state_dict())


class NoiseMiniature(Miniature):
    """A StableDiffusionPipeline that predicts noise."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text = CLIPTextModel(_text_config(tokenizer, WIDTH, layers=2))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(48, 96),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        self.scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )

    def forward(self, x0: Tensor, noise: Tensor, u: Tensor, tokens: Tensor) -> Tensor:
        """Mean of min(1 / alpha_bar(t), 10) |e - eps|^2 with uniform times.

        1 / alpha_bar is the weight that |e - eps|^2 has in the loss of v-prediction. It favours the noisy steps, in
        which what stands where is decided; 10 keeps the noisiest from outweighing all others.
        """
        t = (u * 1000).long()
        prediction = self.unet(self.scheduler.add_noise(x0, noise, t), t, self.text(tokens).last_hidden_state).sample
        weight = self.scheduler.alphas_cumprod[t].reciprocal().clamp(max=10)
        return (weight * (prediction - noise).square().mean(dim=(1, 2, 3))).mean()

    def pipeline(self, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """A StableDiffusionPipeline."""
        return StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=self.text,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class FlowMiniature(Miniature):
    """A StableDiffusion3Pipeline without a T5, which predicts the flow noise - x0.

    Where there is no T5 the pipeline puts `max_sequence_length` zeros in its place, 256 if not told otherwise;
    this one is trained with 12, and wants to be called so.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        width = WIDTH // 2
        self.texts = nn.ModuleList(
            CLIPTextModelWithProjection(_text_config(tokenizer, width, layers=3)) for _ in range(2)
        )
        self.transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=6,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=2 * width,
            caption_projection_dim=128,
            pooled_projection_dim=2 * width,
            pos_embed_max_size=4,
        )
        self.scheduler = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        )

    def forward(self, x0: Tensor, noise: Tensor, u: Tensor, tokens: Tensor) -> Tensor:
        """Mean of |v - (eps - x0)|^2 with logit-normal times, shifted as at inference."""
        s = torch.special.ndtri(u).sigmoid()
        shift = self.scheduler.config.flow_shift
        sigma = shift * s / (1 + (shift - 1) * s)
        x_t = torch.lerp(x0, noise, sigma.view(-1, 1, 1, 1))
        hidden, pooled = self._read(tokens)
        v = self.transformer(x_t, hidden, pooled, 1000 * sigma, return_dict=False)[0]
        return (v - (noise - x0)).square().mean()

    def _read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the pipeline's `encode_prompt` makes of tokens: zeros stand for the T5 that is not there."""
        read = [text(tokens, output_hidden_states=True) for text in self.texts]
        hidden = torch.cat([each.hidden_states[-2] for each in read], dim=-1)
        return torch.cat([hidden, torch.zeros_like(hidden)], dim=1), torch.cat([e.text_embeds for e in read], dim=-1)

    def pipeline(self, autoencoder: AutoencoderKL) -> StableDiffusion3Pipeline:
        """A StableDiffusion3Pipeline."""
        autoencoder.register_to_config(shift_factor=0.0)
        first, second = self.texts
        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=autoencoder,
            text_encoder=first,
            tokenizer=self.tokenizer,
            text_encoder_2=second,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )


MINIATURES: dict[str, type[Miniature]] = {"noise": NoiseMiniature, "flow": FlowMiniature}


def _text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
