"""What a denoiser is told beside its latents."""

from collections.abc import Mapping

from torch import Tensor

Condition = Mapping[str, Tensor]
"""A denoiser's own keyword arguments for a batch of prompts, each [B, ...]."""
