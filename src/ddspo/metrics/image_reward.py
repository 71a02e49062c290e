"""ImageReward: a BLIP that learned how people rank images of one prompt (Xu et al. 2023, arXiv 2304.05977)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._blip import build_blip
from ddspo.metrics._clip import scores
from ddspo.metrics._head import head
from ddspo.metrics._tensors import load_tokenizer, tensors, under
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import clip_pixels
from ddspo.weights import Hub

FILE = "ImageReward.pt"
TOKENS = 35
"""Of a prompt, [CLS] and [SEP] among them."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the rewards of its training images."""


@dataclass(frozen=True)
class ImageReward(Metric):
    """(head(h) - mean) / deviation, with h the [CLS] state of BLIP's text encoder that looks at the image.

    About -2 to 2, 0 for an average image of its training set. The first token is [CLS], as its authors have it, not
    BLIP's own [ENC]. Of a long prompt the first 35 tokens count, the end token among them; the rest is cut off
    silently.
    """

    title = "ImageReward"

    place: Annotated[str, Doc("folder or hub id of the published file")] = "THUDM/ImageReward"
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    tokenizer: Annotated[str, Doc("folder or hub id of BERT's lower-case tokenizer")] = "google-bert/bert-base-uncased"

    @property
    def weights(self) -> tuple[Hub, ...]:
        """The published file, and the tokenizer."""
        published = Hub.of_file(FILE, 1.79e9, "Apache-2.0", self.place, self.revision)
        words = Hub(size=7e5, licence="Apache-2.0", commercial=True, place=self.tokenizer, files=("vocab.txt",))
        return published, words

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load both encoders, the head and the tokenizer."""
        from transformers import BertTokenizer

        published, words = (each.path() for each in self.weights)
        found = tensors(self.place, published / FILE)
        blip = build_blip(self.place, under("blip.", found), device, self.dtype(device))
        reward = head(self.place, under("mlp.", found), blip.text.config.hidden_size)
        tokenize = load_tokenizer(self.tokenizer, BertTokenizer, words, blip.text.config)

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            tokens = tokenize(
                [str(row["prompt"]) for row in rows],
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            )
            states = blip.read(clip_pixels(images, blip.side), tokens)
            return scores((reward(states)[:, 0] - MEAN) / STD)

        yield judge
