"""Detectors that are asked for names: what they read, and what becomes of their raw answers, by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_detectors import CPU, noise, save_clip, save_grounding_dino, save_owlv2
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

from ddspo.detectors import grounding_dino, owlv2
from ddspo.detectors.base import Detection
from ddspo.detectors.grounding_dino import GroundingDino, named
from ddspo.detectors.owlv2 import Owlv2
from ddspo.errors import InputError

SIZES = [(512, 512), (512, 768), (427, 640), (90, 400), (801, 333), (1000, 1700), (31, 77)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_clip(folder / "clip")
    save_owlv2(folder / "owlv2")
    save_grounding_dino(folder / "dino")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Short side 64: a hundredth of the work; not where the processors are compared."""
    if "processor" not in request.node.name:
        monkeypatch.setattr(grounding_dino, "SHORT", 64)
        monkeypatch.setattr(grounding_dino, "LONG", 106)


@pytest.fixture(params=["owlv2", "dino"])
def detector(folder: Path, request: pytest.FixtureRequest) -> Owlv2 | GroundingDino:
    clip, own = str(folder / "clip"), str(folder / request.param)
    return (Owlv2 if request.param == "owlv2" else GroundingDino)(clip, model=own, threshold=0.0)


@pytest.mark.parametrize("size", SIZES)
def test_grounding_dino_reads_what_its_processor_gives(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = GroundingDinoImageProcessorPil()(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(grounding_dino.prepared([image]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [*SIZES[:2], (1000, 1700), (31, 77)])
def test_owlv2_reads_what_its_processor_gives(size: tuple[int, int]) -> None:
    """Of transformers 5: black at the right and the bottom, which before was grey by mistake."""
    image = noise(*size)
    expected = Owlv2ImageProcessorPil()(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(owlv2.prepared([image], 960), expected, rtol=0, atol=1e-4)


def test_owlv2_fills_up_with_black() -> None:
    """(0 - mean) / std below a white image that is twice as wide as it is high."""
    pixels = owlv2.prepared([np.full((32, 64, 3), 255, np.uint8)], 64)
    for channel in range(3):
        mean, std = owlv2.CLIP_MEAN[channel], owlv2.CLIP_STD[channel]
        assert pixels[0, channel, 10, 50].item() == pytest.approx((1 - mean) / std)
        assert pixels[0, channel, 40, 50].item() == pytest.approx((0 - mean) / std)


def corners(box: torch.Tensor, width: float, height: float) -> list[float]:
    x, y, w, h = box.tolist()
    return [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]


def test_owlv2_by_hand(folder: Path) -> None:
    """Each patch is its best name; boxes are in units of the long side, for the square was filled up."""
    image, names = noise(40, 64), ["cat", "hot dog"]
    with Owlv2(str(folder / "clip"), model=str(folder / "owlv2"), threshold=0.0).open(CPU) as read:
        (found,) = read([image], [names])
        tokens = read.tokenizer(  # type: ignore[attr-defined]
            ["a photo of a cat", "a photo of a hot dog"], padding="max_length", max_length=77, return_tensors="pt"
        )
        with torch.inference_mode():
            answer = read.network(  # type: ignore[attr-defined]
                pixel_values=owlv2.prepared([image], 64),
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            )
    expected = []
    for logits, box in zip(answer.logits[0].tolist(), answer.pred_boxes[0], strict=True):
        best = max(range(2), key=lambda n: logits[n])
        expected.append((names[best], 1 / (1 + np.exp(-logits[best])), corners(box, 64, 64)))
    check(found, expected)
    assert {each.name for each in found} == set(names)


def check(found: list[Detection], expected: list[tuple[str, float, list[float]]]) -> None:
    expected = sorted(expected, key=lambda each: -each[1])
    assert len(found) == len(expected) > 5
    assert [each.confidence for each in found] == pytest.approx([each[1] for each in expected], abs=1e-5)
    assert [each.name for each in found] == [each[0] for each in expected]
    for each, (_, _, box) in zip(found, expected, strict=True):
        assert each.box == pytest.approx(box, abs=1e-3)
        assert each.mask is None


def test_grounding_dino_by_hand(folder: Path) -> None:
    """`cat. hot dog.` is [CLS] c a t . h o t d o g . [SEP], a token a letter: cat is 1 to 3, hot dog 5 to 10."""
    image, names = noise(40, 64), ["Hot Dog", "cat"]
    with GroundingDino(str(folder / "clip"), model=str(folder / "dino"), threshold=0.0).open(CPU) as read:
        (found,) = read([image], [names])
        text = read.tokenizer("hot dog. cat.", return_tensors="pt")  # type: ignore[attr-defined]
        assert text["input_ids"].shape == (1, 13)
        pixels = grounding_dino.prepared([image])
        with torch.inference_mode():
            answer = read.network(pixel_values=pixels, **text)  # type: ignore[attr-defined]
    places = {"Hot Dog": range(1, 7), "cat": range(8, 11)}
    expected = []
    for logits, box in zip(answer.logits[0].tolist(), answer.pred_boxes[0], strict=True):
        chances = {name: [1 / (1 + np.exp(-logits[n])) for n in places[name]] for name in names}
        best = max(names, key=lambda name: np.mean(chances[name]))
        expected.append((best, max(chances[best]), corners(box, 64, 40)))
    check(found, expected)
    assert {each.name for each in found} == set(names)


def test_a_box_is_the_name_that_answers_as_a_whole() -> None:
    """A dog: `dog` of "hot dog" answers .8 as well, but `hot` .1. Means .45 and .7: it is a dog, of confidence .7."""
    chances = torch.tensor([[0.0, 0.1, 0.8, 0.3, 0.7, 0.9, 0.0], [0.0, 0.6, 0.8, 0.3, 0.65, 0.9, 0.0]])
    own = torch.tensor([[False, True, True, False, False], [False, False, False, False, True]])
    confidences, labels = named(chances, own)
    assert labels.tolist() == [1, 0]
    assert confidences.tolist() == pytest.approx([0.7, 0.8])


def test_full_stops_do_not_cut_a_name() -> None:
    assert grounding_dino.clean(" St. Bernard?") == "st bernard"


def test_a_box_exceeds_the_threshold(folder: Path) -> None:
    image = noise(40, 64)
    for kind, name in ((Owlv2, "owlv2"), (GroundingDino, "dino")):
        clip, own = str(folder / "clip"), str(folder / name)
        with kind(clip, model=own, threshold=0.0).open(CPU) as read:
            (every,) = read([image], [["cat"]])
        bound = every[3].confidence
        with kind(clip, model=own, threshold=bound).open(CPU) as read:
            (some,) = read([image], [["cat"]])
        assert [each.box for each in some] == [each.box for each in every if each.confidence > bound]


def test_order_and_company_do_not_matter(detector: Owlv2 | GroundingDino) -> None:
    images = [noise(40, 64, n) for n in range(5)] + [noise(64, 40), noise(40, 64, 9)]
    names = [["cat", "dog"], ["dog", "cat"], ["cow"], ["cat", "dog"], [], ["cat", "dog"], ["cat", "dog"]]
    with detector.open(CPU) as read:
        together, turned = read(images, names), read(images[::-1], names[::-1])[::-1]
        alone = [read([image], [asked])[0] for image, asked in zip(images, names, strict=True)]
    assert together[4] == []
    for every in zip(together, turned, alone, strict=True):
        for other in every[1:]:
            assert Counter(each.name for each in every[0]) == Counter(each.name for each in other)
            found, expected = ([each.confidence for each in some] for some in (every[0], other))
            assert found == pytest.approx(expected, abs=1e-3)


def test_names_that_cannot_be_read_to_their_end(detector: Owlv2 | GroundingDino) -> None:
    with detector.open(CPU) as read, pytest.raises(InputError, match="name it in fewer words"):
        read([noise(40, 64)], [["cat " * 60]])


def test_colours_and_licences(detector: Owlv2 | GroundingDino) -> None:
    assert detector.classes is None
    assert "purple" in detector.colours
    assert [(each.licence, each.commercial) for each in detector.weights] == [("Apache-2.0", True), ("MIT", True)]
    with detector.open(CPU) as read:
        assert read.colours(noise(40, 64), [Detection("cat", 0.9, (3.2, 4, 90, 30))])[0] in detector.colours


def test_another_network_is_refused(folder: Path) -> None:
    clip = str(folder / "clip")
    for kind, name in ((Owlv2, "owlv2"), (GroundingDino, "grounding-dino")):
        with pytest.raises(InputError, match=f"holds a clip, not a {name}"), kind(clip, model=clip).open(CPU):
            pass
