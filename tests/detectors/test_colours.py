"""Colours of objects: GenEval's questions, its grey, its cut; by hand from CLIP's own directions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import CPU, noise, save_clip, tokenizer
from torch.nn.functional import normalize

from ddspo.detectors._colours import COLOURS, ColourReader, colour_reader, cut_out
from ddspo.detectors.base import Detection
from ddspo.pixels import clip_pixels


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ColourReader:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return colour_reader(folder, CPU)


def thing(name: str, box: tuple[float, ...], mask: np.ndarray | None = None) -> Detection:
    return Detection(name, 0.9, box, mask)


def test_an_object_lies_on_grey() -> None:
    """Grey is #999, 153; the box cuts after that. Without a mask all of the box is left."""
    image, mask = noise(6, 8), np.zeros((6, 8), bool)
    mask[2:5, 3:6] = True
    mask[3, 4] = False
    found = cut_out(image, thing("cat", (3, 2, 6, 5), mask))
    expected = image[2:5, 3:6].copy()
    expected[1, 1] = 153
    assert np.array_equal(found, expected)
    assert np.array_equal(cut_out(image, thing("cat", (3, 2, 6, 5))), image[2:5, 3:6])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.4, 0.6, 4.5, 3.4), (slice(1, 3), slice(1, 4))),  # rounded, halves to even
        ((-5.0, -5.0, 3.0, 2.0), (slice(0, 2), slice(0, 3))),
        ((6.0, 4.0, 99.0, 99.0), (slice(4, 6), slice(6, 8))),
        ((3.1, 2.1, 3.2, 2.2), (slice(2, 3), slice(3, 4))),
        ((50.0, 50.0, 60.0, 60.0), (slice(5, 6), slice(7, 8))),
    ],
)
def test_boxes_end_with_the_image(box: tuple[float, ...], expected: tuple[slice, slice]) -> None:
    image = noise(6, 8)
    assert np.array_equal(cut_out(image, thing("cat", box)), image[expected])


def direction(reader: ColourReader, colour: str, name: str) -> torch.Tensor:
    """Normalised mean of three normalised texts, one call of the network each."""
    texts = (f"a photo of a {colour} {name}", f"a photo of a {colour}-colored {name}", f"a photo of a {colour} object")
    every = []
    for text in texts:
        tokens = tokenizer()(text, return_tensors="pt")
        with torch.inference_mode():
            found = reader.model.get_text_features(input_ids=tokens["input_ids"]).pooler_output[0]
        every.append(found / found.norm())
    mean = sum(every, torch.zeros_like(every[0])) / 3
    return mean / mean.norm()


def test_the_nearest_of_ten(reader: ColourReader) -> None:
    """Among twenty boxes several colours occur; each is the largest of ten dot products."""
    image = noise(5, 8).repeat(8, 0).repeat(8, 1)
    rng = np.random.default_rng(0)
    boxes = [(x, y, x + 12, y + 8) for x, y in rng.integers(0, 30, (20, 2)).tolist()]
    found = [thing("cat" if n % 2 else "dog", box) for n, box in enumerate(boxes)]
    colours = reader(image, found)
    for each, colour in zip(found, colours, strict=True):
        with torch.inference_mode():
            seen = reader.model.get_image_features(pixel_values=clip_pixels([cut_out(image, each)], 32)).pooler_output[
                0
            ]
        products = [float(seen @ direction(reader, other, each.name)) for other in COLOURS]
        assert colour == COLOURS[int(np.argmax(products))]
    assert len(set(colours)) > 1
    assert reader(image, []) == []


def test_the_class_is_in_the_question_and_each_text_counts_the_same(reader: ColourReader) -> None:
    """The mean of raw texts would lean to the longest vectors."""
    asked = torch.stack([direction(reader, colour, "hot dog") for colour in COLOURS])
    with torch.inference_mode():
        torch.testing.assert_close(reader._asked("hot dog"), asked, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(reader._asked("cat"), asked, atol=1e-3)
        texts = [f"a photo of a {COLOURS[0]} hot dog", f"a photo of a {COLOURS[0]}-colored hot dog"]
        tokens = [tokenizer()(text, return_tensors="pt") for text in [*texts, f"a photo of a {COLOURS[0]} object"]]
        raw = [reader.model.get_text_features(input_ids=each["input_ids"]).pooler_output[0] for each in tokens]
    assert not torch.allclose(normalize(sum(raw, torch.zeros(16)), dim=-1), asked[0], atol=1e-4)


def test_the_middle_of_a_long_object_is_read(reader: ColourReader) -> None:
    """A box of 8 x 200 is read as its middle 8 x 8, all else is lost: as the official code does."""
    image = np.zeros((8, 200, 3), np.uint8)
    middle = noise(8, 8)
    image[:, 96:104] = middle
    other = np.full((8, 200, 3), 255, np.uint8)
    other[:, 90:110] = image[:, 90:110]
    pixels = clip_pixels([image, other], 32)
    assert torch.equal(pixels[0], pixels[1])
    assert reader(image, [thing("cat", (0, 0, 200, 8))]) == reader(other, [thing("cat", (0, 0, 200, 8))])


def test_a_clip_saved_by_others_is_read_in_full(tmp_path: Path) -> None:
    """Half-precision weights are computed with in float32."""
    model = save_clip(tmp_path).half()
    model.save_pretrained(tmp_path)
    found = colour_reader(tmp_path, CPU)
    assert {each.dtype for each in found.model.parameters()} == {torch.float32}
    assert found(np.asarray(Image.new("RGB", (4, 4))), [thing("cat", (0, 0, 4, 4))])[0] in COLOURS
