"""Mask2Former as mmdet uses it: what it reads, and what becomes of its raw logits, by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_mmdet import as_mmdet
from tiny_detectors import CPU, mask2former, mask2former_config, noise, save_clip

from ddspo.detectors import mask2former as module
from ddspo.detectors._names import NAMES
from ddspo.detectors.base import Detection
from ddspo.detectors.mask2former import GREY, MEAN, STD, Mask2Former, Sizes, objects, prepared
from ddspo.downloads import Download
from ddspo.errors import InputError

BIG = 20.0
"""A logit whose sigmoid is 1."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Mask2Former:
    folder = tmp_path_factory.mktemp("networks")
    save_clip(folder / "clip")
    mask2former().save_pretrained(folder / "mask2former")
    return Mask2Former(str(folder / "clip"), model=str(folder / "mask2former"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short side 64, long side 106: a thousandth of the work."""
    monkeypatch.setattr(module, "SHORT", 64)
    monkeypatch.setattr(module, "LONG", 106)


@pytest.mark.parametrize(
    ("size", "inside", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 1024), (800, 800), (800, 800)),
        ((512, 768), (800, 1200), (800, 1216)),
        ((768, 512), (1200, 800), (1216, 800)),
        ((100, 300), (444, 1333), (448, 1344)),  # 1333 / 300 = 4.443: 444.3
        ((427, 640), (800, 1199), (800, 1216)),  # 800 / 427 = 1.874: 1199.06
        ((480, 721), (800, 1202), (800, 1216)),  # 800 / 480 = 1.667: 1201.67
    ],
)
def test_sizes(size: tuple[int, int], inside: tuple[int, int], padded: tuple[int, int]) -> None:
    """The short side becomes 800 unless the long one exceeds 1333, rounded to nearest; filled up to 32s."""
    pixels, found = prepared([noise(*size)])
    assert (found, tuple(pixels.shape)) == (inside, (1, 3, *padded))


def test_there_is_no_antialias_and_grey_is_normalised() -> None:
    """3999 x 8 becomes 1333 x 3: of each three columns the middle one is read, where a filter would mix all three.

    Around it lies (128 - mean) / std, not 0: mmdet's instance configuration fills up before it normalises.
    """
    image = np.full((8, 3999, 3), 255, np.uint8)
    image[:, 1::3] = (10, 20, 30)
    pixels, size = prepared([image])
    assert (size, tuple(pixels.shape)) == ((3, 1333), (1, 3, 32, 1344))
    colours = torch.tensor(STD)[:, None, None] * pixels[0] + torch.tensor(MEAN)[:, None, None]
    for channel, value in enumerate((10, 20, 30)):
        torch.testing.assert_close(colours[channel, :3, :1333], torch.full((3, 1333), float(value)))
    torch.testing.assert_close(colours[:, 3:], torch.full((3, 29, 1344), float(GREY)))
    torch.testing.assert_close(colours[:, :, 1333:], torch.full((3, 32, 11), float(GREY)))


def test_grey_levels_are_whole() -> None:
    """400 pixels to 800: between a and b lie (3a + b) / 4 and (a + 3b) / 4; 0 and 3 give .75 and 2.25, thus 1, 2."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[:, 1::2] = 3
    pixels, _ = prepared([image])
    row = pixels[0, 0, 100, :6] * STD[0] + MEAN[0]
    assert row.tolist() == pytest.approx([0, 1, 2, 2, 1, 1], abs=1e-4)


def logits(*chances: tuple[float, ...]) -> torch.Tensor:
    """Of queries whose chances are given for the first classes; the rest is no object's."""
    rows = torch.full((len(chances), len(NAMES) + 1), 1e-30)
    for query, given in enumerate(chances):
        rows[query, : len(given)] = torch.tensor(given)
        rows[query, -1] = 1 - sum(given)
    return rows.log()


def sizes(height: int, width: int) -> Sizes:
    return Sizes((height, width), (height, width), (height, width))


def labels(*names: str) -> list[int]:
    return [NAMES.index(name) for name in names]


def test_a_query_may_be_two_things() -> None:
    """Person .5 and bicycle .4 at one query: both are found, with one mask. An argmax would know the person alone."""
    masks = torch.full((1, 8, 8), -BIG)
    masks[0, 2:5, 1:7] = BIG
    found = objects(logits((0.5, 0.4)), masks, labels("person", "bicycle"), sizes(8, 8))
    assert [(each.name, round(each.confidence, 4)) for each in found] == [("person", 0.5), ("bicycle", 0.4)]
    assert [each.box for each in found] == [(1, 2, 7, 5)] * 2  # right and bottom are the last pixels' far sides


def test_overlapping_masks_do_not_eat_each_other() -> None:
    masks = torch.full((2, 8, 8), -BIG)
    masks[0, :, :6] = BIG
    masks[1, :, 2:] = BIG
    found = objects(logits((0.9,), (0.8,)), masks, labels("person"), sizes(8, 8))
    assert [each.box for each in found] == [(0, 0, 6, 8), (2, 0, 8, 8)]
    assert [int(each.mask.sum()) for each in found if each.mask is not None] == [48, 48]


def test_confidence_is_chance_times_the_mean_inside_the_mask() -> None:
    """Half of the mask at logit ln 3 (sigmoid 3/4), half at ln 9 (9/10); outside ln 1/9, which does not count."""
    masks = torch.full((1, 8, 8), float(np.log(1 / 9)))
    masks[0, 4:, :4], masks[0, 4:, 4:] = float(np.log(3)), float(np.log(9))
    (found,) = objects(logits((0.8,)), masks, labels("person"), sizes(8, 8))
    assert found.confidence == pytest.approx(0.8 * (0.75 + 0.9) / 2, abs=1e-5)
    assert found.box == (0, 4, 8, 8)


def test_a_hundred_are_kept_of_all_classes_together() -> None:
    """60 queries, each person .6 - n / 1000 and bicycle .3 - n / 1000: all 60 persons and the 40 best bicycles."""
    masks = torch.full((60, 4, 4), BIG)
    chances = [(0.6 - n / 1000, 0.3 - n / 1000) for n in range(60)]
    found = objects(logits(*chances), masks, labels("bicycle"), sizes(4, 4))
    assert [round(each.confidence, 3) for each in found] == [round(0.3 - n / 1000, 3) for n in range(40)]
    assert len(objects(logits(*chances), masks, labels("person", "bicycle"), sizes(4, 4))) == 100


def test_an_empty_mask_is_nothing() -> None:
    assert not objects(logits((0.9,)), torch.full((1, 4, 4), -BIG), labels("person"), sizes(4, 4))


def test_masks_grow_as_logits_to_the_padded_size_then_as_the_image() -> None:
    """Logits of 2 x 2 for a padded size of 8 x 8, of which 8 x 6 are the image, which came with 4 x 3.

    Row of logits -3, 1 at 8: -3 -3 -2.5 -1.5 -.5 .5 1 1, cut to six: -3 -3 -2.5 -1.5 -.5 .5, by twos: -3, -2, 0, so
    that nothing is positive. Grown to the image at once they would be -3, -1, 1: something is.
    """
    masks = torch.tensor([[[-3.0, 1.0], [-3.0, 1.0]]])
    assert not objects(logits((0.9,)), masks, labels("person"), Sizes((8, 8), (8, 6), (4, 3)))
    masks += 0.1
    (found,) = objects(logits((0.9,)), masks, labels("person"), Sizes((8, 8), (8, 6), (4, 3)))
    assert found.box == (2, 0, 3, 4)
    assert found.mask is not None
    assert found.mask.shape == (4, 3)


def test_names_go_by_place() -> None:
    """GenEval's names in COCO's order; three differ from COCO's own."""
    assert len(NAMES) == len(set(NAMES)) == 80
    assert [NAMES.index(name) for name in ("person", "hot dog", "computer mouse", "tv remote", "toothbrush")] == [
        *(0, 52, 64, 65, 79)
    ]


def by_hand(network: torch.nn.Module, image: np.ndarray) -> list[tuple[str, float, int]]:
    """Name, confidence and pixels of all objects, the slow way."""
    pixels, (height, width) = prepared([image])
    with torch.inference_mode():
        output = network(pixel_values=pixels)
    grown = torch.nn.functional.interpolate(output.masks_queries_logits, size=pixels.shape[-2:], mode="bilinear")
    masks = torch.nn.functional.interpolate(grown[..., :height, :width], size=image.shape[:2], mode="bilinear")[0]
    every = []
    for query, row in enumerate(output.class_queries_logits[0].softmax(-1)):
        inside = masks[query][masks[query] > 0]
        every += [(float(p), NAMES[label], inside) for label, p in enumerate(row[:-1])]
    every = sorted(every, key=lambda each: -each[0])[:100]
    found = [(name, p * float(inside.sigmoid().mean()), len(inside)) for p, name, inside in every if len(inside)]
    return sorted(found, key=lambda each: -each[1])


def test_a_whole_detector(detector: Mask2Former, small: None) -> None:
    images = [noise(48, 48), noise(64, 90, 1), noise(48, 48, 2), noise(100, 40, 3), noise(48, 48, 4)]
    with detector.open(CPU) as read:
        found = read(images, [NAMES] * 5)
    assert all(len(each) > 20 for each in found)
    for image, objects_of_it in zip(images, found, strict=True):
        expected = by_hand(mask2former(), image)
        assert [each.name for each in objects_of_it] == [name for name, *_ in expected]
        assert [each.confidence for each in objects_of_it] == pytest.approx([c for _, c, _ in expected], abs=1e-5)
        assert [each.mask.sum() for each in objects_of_it if each.mask is not None] == [n for *_, n in expected]


def test_only_what_is_asked_for(detector: Mask2Former, small: None) -> None:
    image = noise(48, 48)
    with detector.open(CPU) as read:
        (every,), (some, none) = read([image], [NAMES]), read([image] * 2, [{every_name(read, image)}, {"dragon"}])
    assert some
    assert [each.box for each in some] == [each.box for each in every if each.name == some[0].name]
    assert none == []


def every_name(read: object, image: np.ndarray) -> str:
    return read([image], [NAMES])[0][0].name  # type: ignore[operator]


def test_order_and_company_do_not_matter(detector: Mask2Former, small: None) -> None:
    images = [noise(48, 48, n) for n in range(6)] + [noise(30, 60)]
    with detector.open(CPU) as read:
        together, turned = read(images, [NAMES] * 7), read(images[::-1], [NAMES] * 7)[::-1]
        alone = [read([image], [NAMES])[0] for image in images]
    for a, b, c in zip(together, turned, alone, strict=True):
        for other in (b, c):
            assert [each.name for each in a] == [each.name for each in other]
            assert [each.confidence for each in a] == pytest.approx([each.confidence for each in other], abs=1e-5)


def test_the_official_file_is_converted(
    detector: Mask2Former, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "official.pth"
    weights = load_file(Path(str(detector.model)) / "model.safetensors")
    torch.save({"meta": {}, "state_dict": as_mmdet(weights)}, file)
    monkeypatch.setattr(Download, "path", lambda self: file)
    monkeypatch.setattr(module, "official_config", mask2former_config)
    with Mask2Former(detector.colour_model).open(CPU) as official, detector.open(CPU) as hub:
        found, expected = (read([noise(48, 48)], [NAMES])[0] for read in (official, hub))
    assert [each.name for each in found] == [each.name for each in expected]
    assert [each.confidence for each in found] == pytest.approx([each.confidence for each in expected], abs=1e-5)


def test_it_says_what_it_loads() -> None:
    detector, other = Mask2Former(), Mask2Former(model="facebook/mask2former-swin-small-coco-instance")
    own, clip = detector.weights
    assert own.identity == "743b7d99"
    assert str(own).endswith("20220504_001756-743b7d99.pth (0.28 GB, Apache-2.0)")
    assert str(clip) == "openai/clip-vit-large-patch14 (1.7 GB, MIT)"
    assert other.weights[0].name == "facebook/mask2former-swin-small-coco-instance"
    assert detector.classes == NAMES
    assert detector.side is None


def test_other_networks_are_refused(detector: Mask2Former, tmp_path: Path) -> None:
    mask2former(num_labels=3).save_pretrained(tmp_path / "three")
    with (
        pytest.raises(InputError, match="knows 3 classes, not COCO's 80"),
        Mask2Former(detector.colour_model, model=str(tmp_path / "three")).open(CPU),
    ):
        pass
    clip, own = detector.colour_model, str(detector.model)
    with pytest.raises(InputError, match="holds a clip, not a mask2former"), Mask2Former(clip, model=clip).open(CPU):
        pass
    with pytest.raises(InputError, match="holds a mask2former, not a clip"), Mask2Former(own, model=own).open(CPU):
        pass
    with (
        pytest.raises(InputError, match="no such folder"),
        Mask2Former(clip, model=str(tmp_path / "nowhere")).open(CPU),
    ):
        pass
    (tmp_path / "three" / "model.safetensors").write_bytes(b"damaged")
    damaged = Mask2Former(clip, model=str(tmp_path / "three"))
    with pytest.raises(InputError, match="no Mask2FormerForUniversalSegmentation loaded"), damaged.open(CPU):
        pass


def test_a_detection_is_ordinary(detector: Mask2Former, small: None) -> None:
    with detector.open(CPU) as read:
        first = read([noise(48, 48)], [NAMES])[0][0]
    assert isinstance(first, Detection)
    assert first.mask is not None
    assert (first.mask.shape, first.mask.dtype) == ((48, 48), np.bool_)
    rows, columns = np.where(first.mask)
    assert first.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
