"""BLIP-VQA: T2I-CompBench's rules with a tiny BLIP, worked out by hand from the network's own parts."""

import math
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering

from ddspo.errors import InputError
from ddspo.metrics import blip_vqa
from ddspo.metrics._phrases import phrase_reader
from ddspo.metrics.base import Score
from ddspo.metrics.blip_vqa import BlipVQA, question
from ddspo.pixels import normalised

CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *(f"##{each}" for each in ascii_lowercase)]
WORDS += ["?", "-", "yes", "no", "cat", "dog", "red", "black"]
BEGIN = len(WORDS)
"""The decoder's first token; [ENC] is the next."""


def save(folder: Path, side: int) -> str:
    """As published: a plain BERT tokenizer, whose two more tokens only the network knows."""
    torch.manual_seed(2)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": BEGIN, "pad_token_id": 0, "sep_token_id": 3}
    config = BlipConfig(
        text_config=small | special | {"vocab_size": BEGIN + 2, "encoder_hidden_size": 16, "projection_dim": 16},
        vision_config=small | {"image_size": side, "patch_size": 96},
        projection_dim=16,
    )
    network = BlipForQuestionAnswering(config)
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.5)
        else:
            torch.nn.init.constant_(weight, float(name.lower().endswith("weight")))
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of 384 pixels, whose positions have to be interpolated."""
    return save(tmp_path_factory.mktemp("blip"), 384)


def noise(number: int, *sides: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    small = [draw.integers(0, 256, (5, 5, 3), dtype=np.uint8) for _ in sides]
    return [np.asarray(Image.fromarray(each).resize(size)) for each, size in zip(small, sides, strict=True)]


IMAGES = noise(0, (480, 480), (300, 200), (64, 96))
ROWS = [
    {"prompt": "a red cat and a black dog"},
    {"prompt": "a cat"},
    {"prompt": "anything", "phrases": ["a black cat", "dog", "a red dog no cat"]},
]
PHRASES = [["a red cat", "a black dog"], ["a cat"], ROWS[2]["phrases"]]


def by_hand(place: str, picture: np.ndarray, phrase: str, **other: Any) -> float:
    """One question, from pixels to the answer; `other` changes a step."""
    network = BlipForQuestionAnswering.from_pretrained(place).eval()
    words = BertTokenizerFast.from_pretrained(place)(f"{phrase}?").input_ids
    words[0] = other.get("first", BEGIN + 1)
    side = other.get("side", 480)
    square = other.get("image", Image.fromarray(picture)).resize((side, side), Image.Resampling.BICUBIC)
    with torch.no_grad():
        seen = network.vision_model(normalised([square]), interpolate_pos_encoding=True)[0]
        read = network.text_encoder(torch.tensor([words]), encoder_hidden_states=seen)[0]
        begin = torch.tensor([[other.get("begin", BEGIN)]])
        said = network.text_decoder(begin, encoder_hidden_states=read).logits[0, 0].softmax(-1)
    yes, no = float(said[WORDS.index("yes")]), float(said[WORDS.index("no")])
    return yes if other.get("alone") else yes / (yes + no)


def judged(place: str, images: list[np.ndarray] = IMAGES, rows: list[dict[str, Any]] = ROWS) -> list[Score]:
    with BlipVQA(place).open(CPU) as judge:
        return judge(images, rows)


def cropped(image: np.ndarray) -> Image.Image:
    short = min(image.shape[:2])
    return Image.fromarray(image[:short, :short])


def test_the_score_is_the_product_of_the_answers(blip: str) -> None:
    """Each question by itself, however long the others are; and no other form of a step gives the same.

    The others: [CLS] in place of [ENC], 384 pixels, a part of the image, [CLS] to begin the answer, yes without no.
    """
    found = judged(blip)
    for image, phrases, score in zip(IMAGES, PHRASES, found, strict=True):
        answers = [by_hand(blip, image, phrase) for phrase in phrases]
        assert score.value == pytest.approx(math.prod(answers), rel=1e-4)
        others = [{"first": 2}, {"side": 384}, {"begin": 2}, {"alone": True}]
        others += [{"image": cropped(image)}] if image.shape[0] != image.shape[1] else []
        for other in others:
            wrong = math.prod(by_hand(blip, image, phrase, **other) for phrase in phrases)
            assert score.value != pytest.approx(wrong, rel=1e-3), other


def test_batches_and_order_do_not_matter(blip: str) -> None:
    found = [each.value for each in judged(blip)]
    assert [each.value for each in judged(blip, IMAGES[::-1], ROWS[::-1])] == pytest.approx(found[::-1])
    single = [judged(blip, [image], [row])[0].value for image, row in zip(IMAGES, ROWS, strict=True)]
    assert single == pytest.approx(found)


def test_positions_of_480_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    """As a folder that was converted from the official file at its own size has them."""
    place = save(tmp_path, 480)
    (found,) = judged(place, IMAGES[:1], ROWS[1:2])
    assert found.value == pytest.approx(by_hand(place, IMAGES[0], "a cat"), rel=1e-4)


def test_at_most_eight_phrases_count_and_none_is_one(blip: str) -> None:
    many = [f"a {letter} cat" for letter in ascii_lowercase[:10]]
    rows = [{"prompt": "x", "phrases": many}, {"prompt": "x", "phrases": many[:8]}, {"prompt": "running quickly"}]
    found = judged(blip, IMAGES[:1] * 3, rows)
    assert found[0].value == pytest.approx(found[1].value)
    assert found[2] == Score(1.0, "no noun phrase")


def test_what_is_doubted_is_noted(blip: str) -> None:
    with BlipVQA(blip).open(CPU) as judge:
        (found,) = judge(IMAGES[:1], [{"prompt": "x", "phrases": list("abcdefgh")}])
    answers = {each: by_hand(blip, IMAGES[0], each) for each in "abcdefgh"}
    wanted = [f"{each}: {answer:.2f}" for each, answer in answers.items() if answer < 0.5]
    assert 0 < len(wanted) < 8
    assert found.note == "; ".join(wanted)


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [
        ("A Red Cat", "a red cat?"),
        ('the "big" (dog); its #1: ~*friend*!', "the big dog its 1 friend?"),
        ("a dog's, well-known, bowl ", "a dog's, well-known, bowl ?"),
        (" ".join("abc" for _ in range(60)), " ".join("abc" for _ in range(50))),
    ],
)
def test_questions_are_made_as_blip_was_taught(phrase: str, asked: str) -> None:
    """In lower case, without .!"()*#:;~ but with commas, hyphens and apostrophes; no more than 50 words."""
    assert question(phrase) == asked


def test_long_questions_are_cut_after_35_tokens(blip: str) -> None:
    """The last of them is [SEP]."""
    asker = blip_vqa.Asker.load(BlipVQA(blip).weights[0], CPU, torch.float32)
    ids = asker._tokens(f"{' '.join(ascii_lowercase)} {' '.join(ascii_lowercase)}")
    assert ids.shape == (1, 35)
    assert (ids[0, 0], ids[0, -1]) == (BEGIN + 1, 3)


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("a brown bear and a red book", ["a brown bear", "a red book"]),
        ("a red horse and a brown orange", ["a red horse", "a brown orange"]),
        ("a fluffy teddy bear and a leather belt", ["a fluffy teddy bear", "a leather belt"]),
        ("The striped black and white cat lay next to it.", ["The striped black and white cat"]),
        ("The black chair is on top of the blue rug.", ["The black chair", "the blue rug"]),
        ("a sheep on the left of a lamp", ["a sheep", "a lamp"]),
        ("four bears, two girls", ["four bears", "two girls"]),
        ("A BIG <cat> 猫 \U0001f408, “quoted” dog's", None),
        ("", []),
        (" \t", []),
    ],
)
def test_noun_phrases_without_spacy(prompt: str, phrases: list[str] | None) -> None:
    """With determiner and modifiers, in the prompt's own spelling; 'top', 'the left' and the like are left out."""
    found = phrase_reader("textblob")(prompt)
    assert all(each in prompt for each in found)
    assert phrases is None or found == phrases


@pytest.mark.parametrize("text", ["the top", "The left", "the side", "the right", "top"])
def test_only_phrases_written_exactly_so_are_left_out(text: str) -> None:
    """As in the official list, which has neither 'the top' nor capitals."""
    assert phrase_reader("textblob")(f"a cat on {text} of a dog")[1:-1] == (
        [text] if text in ("the top", "The left") else []
    )


def test_spacy_is_asked_for_and_not_there(blip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(InputError, match="pip install spacy: then python -m spacy download en_core_web_sm"):
        phrase_reader("spacy")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "a cat"}, None),
        ({"prompt": "a cat", "phrases": ["a cat"]}, None),
        ({}, "no prompt"),
        ({"prompt": "a cat", "phrases": "a cat"}, "phrases 'a cat': give a list of texts"),
        ({"prompt": "a cat", "phrases": ["a cat", " "]}, "phrases ['a cat', ' ']: give a list of texts"),
        ({"prompt": "a cat", "phrases": [3]}, "phrases [3]: give a list of texts"),
    ],
)
def test_what_a_row_needs(row: dict[str, Any], fault: str | None) -> None:
    assert BlipVQA().missing(row) == fault


def test_a_tokenizer_without_yes_is_one_line(tmp_path: Path) -> None:
    place = save(tmp_path, 384)
    for name in ("vocab.txt", "tokenizer.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("yes", "oui"))
    with pytest.raises(InputError, match="no word yes or no"):
        judged(place)
