"""T2I-CompBench's score of attributes: BLIP is asked for each noun phrase (Huang et al. 2023, arXiv 2307.06350).

The rules of T2I-CompBench's BLIPvqa_eval over transformers' BLIP: an image is squashed to 480 x 480 pixels; a question
begins with [ENC], not with [CLS]; the answer is the decoder's first token. The weights on the hub were converted at
384 pixels, so that their positions are interpolated back to 480: scores lie near those of the official file, which is
a pickle, without being the same.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Doc

from ddspo.backbones._loading import load_network
from ddspo.errors import InputError, quoted
from ddspo.metrics._phrases import Reader, phrase_reader
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import normalised
from ddspo.weights import Hub

SIDE = 480
MOST = 8
"""Phrases of a prompt that are asked for."""
TOKENS, WORDS = 35, 50
"""Of a question, of which the rest is cut off."""
SIGNS = re.compile(r"[.!\"()*#:;~]")
"""What is taken out of a question."""


@dataclass(frozen=True)
class BlipVQA(Metric):
    """Product over noun phrases of P(yes) / (P(yes) + P(no)), BLIP's answers to "PHRASE?"; 1 where there is none.

    A row may say what is asked for: `phrases`, a list of texts.
    """

    title = "BLIP-VQA"

    model: Annotated[str, Doc("folder or hub id of the BLIP for question answering")] = (
        "Salesforce/blip-vqa-capfilt-large"
    )
    revision: Annotated[str | None, Doc("branch, tag or commit of the hub id")] = None
    reader: Annotated[
        Reader, Doc("who finds the phrases: rules over TextBlob's tagger, or spacy (to be installed), as in the paper")
    ] = "textblob"

    @property
    def weights(self) -> tuple[Hub]:
        """BLIP."""
        return (Hub(1.54e9, "BSD-3-Clause", True, self.model, self.revision),)

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """A prompt, and phrases that are a list of texts, where there are any."""
        if not isinstance(row.get("prompt"), str):
            return "no prompt"
        phrases = row.get("phrases", [])
        whole = isinstance(phrases, list) and all(isinstance(each, str) and each.strip() for each in phrases)
        return None if whole else f"phrases {quoted(phrases, 40)}: give a list of texts"

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load BLIP."""
        phrases = phrase_reader(self.reader)
        asker = Asker.load(self.weights[0], device, self.dtype(device))

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            asked = [list(row.get("phrases") or phrases(row["prompt"]))[:MOST] for row in rows]
            return [_score(asker, *each) for each in zip(images, asked, strict=True)]

        yield judge


def _score(asker: "Asker", image: np.ndarray, phrases: Sequence[str]) -> Score:
    if not phrases:
        return Score(1.0, "no noun phrase")
    answers = asker(image, [question(each) for each in phrases])
    doubted = [f"{phrase}: {answer:.2f}" for phrase, answer in zip(phrases, answers, strict=True) if answer < 0.5]
    return Score(math.prod(answers), "; ".join(doubted))


def question(phrase: str) -> str:
    """What BLIP is asked: in lower case, without signs, no longer than `WORDS`."""
    return " ".join(SIGNS.sub("", f"{phrase}?".lower()).rstrip(" ").split(" ")[:WORDS])


@dataclass(frozen=True)
class Asker:
    """BLIP on a device, with its tokenizer."""

    network: Any
    tokenizer: Any

    @classmethod
    def load(cls, weights: Hub, device: torch.device, dtype: torch.dtype) -> "Asker":
        """Load both.

        Raises:
            InputError: Files are missing or damaged, or of another network.
        """
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        folder = weights.path()
        network: Any = load_network(weights.name, BlipForQuestionAnswering, folder, None, dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
        if tokenizer.unk_token_id in (yes, no):
            raise InputError(f"{weights.name}: its tokenizer has no word yes or no: give a BLIP of English")
        return cls(network.to(device), tokenizer)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, questions: Sequence[str]) -> list[float]:
        """P(yes) / (P(yes) + P(no)) of each question about an image [H, W, 3] uint8.

        Each is read by itself: padding would change what transformers' BLIP makes of the shorter ones.
        """
        seen = self._see(image)
        return [self._answer(seen, each) for each in questions]

    def _answer(self, seen: Tensor, question: str) -> float:
        network = self.network
        read = network.text_encoder(input_ids=self._tokens(question), encoder_hidden_states=seen)[0]
        begin = torch.full((1, 1), network.config.text_config.bos_token_id, device=network.device)
        said = network.text_decoder(input_ids=begin, encoder_hidden_states=read).logits[0, 0].float()
        return float(said[self.tokenizer.convert_tokens_to_ids(["yes", "no"])].softmax(-1)[0])

    def _see(self, image: np.ndarray) -> Tensor:
        """[1, places, width]."""
        square = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = normalised([square]).to(self.network.device, self.network.dtype)
        return self.network.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)[0]

    def _tokens(self, question: str) -> Tensor:
        """[1, N] ids, of which the first is [ENC], the one after the decoder's first in the network's vocabulary."""
        found = self.tokenizer(question, truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        found[:, 0] = self.network.config.text_config.bos_token_id + 1
        return found.to(self.network.device)
