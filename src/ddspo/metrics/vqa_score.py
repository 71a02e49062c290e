"""How sure a vision-language model is that an image shows its prompt (VQAScore, Lin et al. 2024, arXiv 2404.01291).

Any model of transformers' image-text-to-text kind that has a chat template will do. Its images are prepared by its own
processor with PIL, whether torchvision is there or not. Processors that take videos too cannot be loaded without
torchvision (Qwen-VL, SmolVLM2, LLaVA-OneVision, InternVL); those of Idefics, SmolVLM, LLaVA, LLaVA-NeXT, PaliGemma,
Gemma 3, Pixtral and Mllama can. Scores of different models, or of another question, do not compare.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.errors import InputError, quoted
from ddspo.metrics._vision_language import Model
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.weights import Hub

DEFAULT = "HuggingFaceTB/SmolVLM-Instruct"


@dataclass(frozen=True)
class VQAScore(Metric):
    """P("yes") of the first token that answers 'Does this figure show "PROMPT"? Please answer yes or no.'"""

    title = "VQAScore"
    half = True

    model: Annotated[str, Doc("folder or hub id of an image-text-to-text model with a chat template")] = DEFAULT
    revision: Annotated[str | None, Doc("branch, tag or commit of the hub id")] = None
    question: Annotated[str, Doc("what is asked; {} stands for the prompt")] = (
        'Does this figure show "{}"? Please answer yes or no.'
    )
    against_no: Annotated[
        bool, Doc("P(yes) / (P(yes) + P(no)) in place of P(yes), for models that like to begin otherwise")
    ] = False

    @property
    def weights(self) -> tuple[Hub]:
        """The model."""
        licence = "Apache-2.0" if self.model == DEFAULT else "its publisher's"
        return (Hub(4.49e9, licence, True, self.model, self.revision),)

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """A prompt."""
        return None if isinstance(row.get("prompt"), str) else "no prompt"

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load the model."""
        if "{}" not in self.question:
            raise InputError(f"vqa_score.question {quoted(self.question)}: write {{}} where the prompt belongs")
        model = Model.load(self.weights[0], device, self.dtype(device))
        yes, no = model.first_tokens("yes"), model.first_tokens("no")

        def score(image: np.ndarray, row: Mapping[str, Any]) -> Score:
            probabilities = model.next_token(image, self.question.replace("{}", row["prompt"]))
            agrees, denies = (float(probabilities[each].sum()) for each in (yes, no))
            return Score(agrees / (agrees + denies) if self.against_no else agrees)

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            return [score(*each) for each in zip(images, rows, strict=True)]

        yield judge
