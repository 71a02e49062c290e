"""U-Nets that are told pooled text, and the size and crop of the image."""

from abc import ABC

from torch import Tensor, nn

from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition


class Sized(Backbone, ABC):
    """SDXL and its kin."""

    denoiser_name = "unet"
    guidance = 5.0

    def told(self, hidden: Tensor, pooled: Tensor) -> Condition:
        """Hidden states, [B, tokens, width], pooled text, [B, width], and beside them sizes, [B, 6].

        The six numbers are those of the pipeline's own call: original size, top left corner of the crop and target
        size, which say that the image is whole and as large as the model's resolution.
        """
        size = (self.call["height"], self.call["width"])
        sizes = self.pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=hidden.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        time_ids = sizes.to(self.device).repeat(len(hidden), 1)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled, "time_ids": time_ids}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet takes pooled text and sizes in a mapping of their own."""
        hidden, added = (
            condition["encoder_hidden_states"],
            {name: condition[name] for name in ("text_embeds", "time_ids")},
        )
        return denoiser(x_t, t, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False)[0]
