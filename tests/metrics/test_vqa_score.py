"""VQAScore with tiny models of two families, against their own logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import is_torchvision_available

from ddspo.errors import InputError
from ddspo.metrics._vision_language import Model
from ddspo.metrics.base import Score
from ddspo.metrics.vqa_score import VQAScore

CPU = torch.device("cpu")
HAS_VIDEOS = is_torchvision_available()
TEXT = 'Does this figure show "a cat"? Please answer yes or no. Yes No YES NO yes no eyes know User Assistant : '
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}:{% for line in message['content'] %}"
    "{% if line['type'] == 'image' %}<image>{% else %}{{ line['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(text: str = TEXT) -> PreTrainedTokenizerFast:
    """Byte pairs of a text."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator([text] * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    special += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    made = PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<pad>", eos_token="</s>", padding_side="left")
    made.add_special_tokens({"additional_special_tokens": special})
    return made


def language(size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
    )


def idefics(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """As SmolVLM: an image is cut into four parts of 16 pixels, and there is a small one of all of it."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config=vision | {"image_size": 16, "patch_size": 4},
        text_config=language(len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, words, 4, chat_template=TEMPLATE)


def llava(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """CLIP's places, all but the first, before Llama."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language(len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    made = LlavaProcessor(images, words, 4, "default", chat_template=TEMPLATE, num_additional_image_tokens=1)
    return LlavaForConditionalGeneration(config), made


def save(folder: Path, kind: Callable[[Any], tuple[Any, Any]], words: PreTrainedTokenizerFast) -> str:
    torch.manual_seed(0)
    network, processor = kind(words)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=[idefics, llava], ids=["idefics3", "llava"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("model"), request.param, tokenizer())


def noise(number: int, *sides: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    return [draw.integers(0, 256, (*each, 3), dtype=np.uint8) for each in sides]


IMAGES = noise(0, (32, 32), (20, 40), (50, 30))
ROWS = [{"prompt": each} for each in ("a cat", "two dogs and a very long tail", "x")]


def judged(metric: VQAScore, images: list[np.ndarray] = IMAGES, rows: list[dict[str, str]] = ROWS) -> list[Score]:
    with metric.open(CPU) as judge:
        return judge(images, rows)


def by_hand(place: str, image: np.ndarray, text: str) -> torch.Tensor:
    """The text is written out here, and the network generates one token in its own way."""
    kind = Idefics3ForConditionalGeneration if "Idefics3" in Path(place, "config.json").read_text() else None
    network = (kind or LlavaForConditionalGeneration).from_pretrained(place).eval()
    processor = (Idefics3Processor if kind else LlavaProcessor).from_pretrained(place)
    given = processor(text=f"User:<image>{text}<end_of_utterance>\nAssistant:", images=[Image.fromarray(image)])
    given = {name: torch.tensor(np.array(each)) for name, each in given.items()}
    made = network.generate(
        **given, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return made.logits[0][0].softmax(-1)


def test_the_score_is_the_probability_of_yes_however_it_is_spelt(place: str) -> None:
    """Tokens yes, Yes, YES with and without a space before them, each once, and no part of another word."""
    model = Model.load(VQAScore(place).weights[0], CPU, torch.float32)
    yes, no = model.first_tokens("yes"), model.first_tokens("no")
    words = [model.processor.tokenizer.decode([each]) for each in yes]
    assert {each.strip() for each in words} == {"yes", "Yes", "YES"}
    assert len(set(words)) == len(words) > 3
    found = judged(VQAScore(place))
    shares = judged(VQAScore(place, against_no=True))
    for image, row, score, share in zip(IMAGES, ROWS, found, shares, strict=True):
        text = f'Does this figure show "{row["prompt"]}"? Please answer yes or no.'
        probabilities = by_hand(place, image, text)
        agrees, denies = (float(probabilities[each].sum()) for each in (yes, no))
        assert score.value == pytest.approx(agrees, rel=1e-4)
        assert share.value == pytest.approx(agrees / (agrees + denies), rel=1e-4)


def test_image_question_and_prompt_matter_and_batches_do_not(place: str) -> None:
    found = judged(VQAScore(place))
    assert len({each.value for each in found}) == 3
    single = [judged(VQAScore(place), [image], [row])[0] for image, row in zip(IMAGES, ROWS, strict=True)]
    assert single == found
    assert judged(VQAScore(place), IMAGES[::-1], ROWS[::-1]) == found[::-1]
    other = judged(VQAScore(place, question="{}?"))
    shifted = judged(VQAScore(place), IMAGES, ROWS[1:] + ROWS[:1])
    for each in (other, shifted):
        assert all(a.value != pytest.approx(b.value, rel=1e-3) for a, b in zip(each, found, strict=True))


def test_braces_in_a_prompt_are_its_own(place: str) -> None:
    (found,) = judged(VQAScore(place), IMAGES[:1], [{"prompt": "{0} {} {cat}"}])
    text = 'Does this figure show "{0} {} {cat}"? Please answer yes or no.'
    model = Model.load(VQAScore(place).weights[0], CPU, torch.float32)
    assert found.value == pytest.approx(
        float(by_hand(place, IMAGES[0], text)[model.first_tokens("yes")].sum()), rel=1e-4
    )


def test_a_prompt_with_the_models_own_signs_is_one_line(place: str) -> None:
    with pytest.raises(InputError, match="a prompt holds <image>, a sign of the model's own"):
        judged(VQAScore(place), IMAGES[:1], [{"prompt": "a <image> of a cat"}])
    with pytest.raises(InputError, match=r"write \{\} where the prompt belongs"):
        judged(VQAScore(place, question="Is it good?"))


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")


def with_videos(folder: Path) -> None:
    """A processor of images and videos, as Qwen's, whose half for videos takes torchvision."""
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace("Idefics3Processor", "Qwen2_5_VLProcessor"))
    (folder / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (without_template, "no chat template"),
        (without_weights, "not loaded"),
        pytest.param(with_videos, "install that", marks=pytest.mark.skipif(HAS_VIDEOS, reason="it can be loaded")),
    ],
)
def test_a_model_that_will_not_do_is_one_line(harm: Callable[[Path], None], line: str, tmp_path: Path) -> None:
    save(tmp_path, idefics, tokenizer())
    harm(tmp_path)
    with pytest.raises(InputError, match=line):
        judged(VQAScore(str(tmp_path)))


def test_a_vocabulary_without_yes_is_one_line(tmp_path: Path) -> None:
    """Letters alone: the first token of yes is y, which begins other words too."""
    save(tmp_path, llava, tokenizer("x"))
    with pytest.raises(InputError, match="no token for yes"):
        judged(VQAScore(str(tmp_path)))


def test_a_row_needs_a_prompt() -> None:
    assert VQAScore().missing({"prompt": "a cat"}) is None
    assert VQAScore().missing({}) == VQAScore().missing({"prompt": None}) == "no prompt"
