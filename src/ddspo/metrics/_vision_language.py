"""A chat model that sees, of transformers: the probabilities of the first token of its answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddspo.backbones._loading import load_network
from ddspo.backbones._model import short
from ddspo.errors import InputError, shortened
from ddspo.weights import Hub


@dataclass(frozen=True)
class Model:
    """The network on a device, and its processor.

    Attributes:
        name: For messages.
    """

    name: str
    network: Any
    processor: Any

    @classmethod
    def load(cls, weights: Hub, device: torch.device, dtype: torch.dtype) -> "Model":
        """Load both.

        Raises:
            InputError: Files are missing or damaged, of another kind of model, or take torchvision.
        """
        from transformers import AutoModelForImageTextToText

        folder = weights.path()
        processor = _processor(weights.name, folder)
        network: Any = load_network(weights.name, AutoModelForImageTextToText, folder, None, dtype)
        return cls(weights.name, network.to(device), processor)

    def first_tokens(self, word: str) -> list[int]:
        """The tokens that are a word, each once, however it is spelt: with a space before it, with a capital.

        Raises:
            InputError: The vocabulary has none.
        """
        tokenizer = self.processor.tokenizer
        spellings = [space + each for space in ("", " ") for each in (word, word.capitalize(), word.upper())]
        first = {tokenizer.encode(each, add_special_tokens=False)[0] for each in spellings}
        found = sorted(each for each in first if tokenizer.decode([each]).strip().lower() == word)
        if not found:
            raise InputError(f"{self.name}: it has no token for {word}: give another model")
        return found

    @torch.no_grad()
    def next_token(self, image: np.ndarray, question: str) -> Tensor:
        """The probabilities [vocabulary] of the first token of the answer to a question about an image [H, W, 3]."""
        given = self._given(Image.fromarray(image), question).to(self.network.device, self.network.dtype)
        return self.network(**given).logits[0, -1].float().softmax(-1).cpu()

    def _given(self, image: Image.Image, question: str) -> Any:
        """What the network reads of one user's turn.

        Raises:
            InputError: The question holds a token that means something else to the model, as that of an image does.
        """
        for special in self.processor.tokenizer.all_special_tokens:
            if special in question:
                raise InputError(f"{self.name}: a prompt holds {shortened(special)}, a sign of the model's own")
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def _processor(name: str, folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except Exception as error:  # transformers has a dozen types for what is missing or damaged
        if "orchvision" in str(error):
            raise InputError(
                f"{name}: its processor takes videos too, and with them torchvision: install that, or give a model "
                "of images alone"
            ) from None
        raise InputError(f"{name}: its processor is not loaded: {short(error)}") from None
    if not processor.chat_template:
        raise InputError(f"{name}: it has no chat template: give a model that was taught to answer")
    return processor
