"""What every metric must do, each at tiny size: a file without an entry in `OPTIONS` fails.

The networks are those of the metrics' own tests, with random weights.
"""

import gc
import math
import shutil
import typing
import weakref
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import clip_networks
import numpy as np
import pytest
import test_blip_vqa
import test_clip_scores
import test_human_preference
import test_image_reward
import test_inception
import test_lpips
import test_vqa_score
import tiny_detectors
import torch

from ddspo import components
from ddspo.detectors import mask2former
from ddspo.detectors.mask2former import Mask2Former
from ddspo.detectors.scenes import SceneDetector
from ddspo.downloads import Download
from ddspo.errors import InputError
from ddspo.metrics import _inception, _lpips
from ddspo.metrics.base import Measure, Metric, Score, SetMetric, Shown
from ddspo.metrics.blip_vqa import BlipVQA
from ddspo.metrics.clip_score import ClipScore
from ddspo.metrics.cmmd import CMMD
from ddspo.metrics.compbench_spatial import CompBenchSpatial
from ddspo.metrics.confident import Confident
from ddspo.metrics.drawing import Drawing
from ddspo.metrics.fid import FID
from ddspo.metrics.geneval import GenEval
from ddspo.metrics.hps import HPS
from ddspo.metrics.hps_v2 import FirstHPS
from ddspo.metrics.inception_score import InceptionScore
from ddspo.metrics.kid import KID
from ddspo.metrics.latent_distance import LatentDistance
from ddspo.metrics.latent_diversity import LatentDiversity
from ddspo.metrics.lpips_diversity import LPIPSDiversity
from ddspo.metrics.pick_score import PickScore
from ddspo.metrics.saturation import Saturation
from ddspo.metrics.vqa_score import VQAScore
from ddspo.weights import Hub, Web

CPU = torch.device("cpu")
NOISE = "package://ddspo.scenes/noise"
BOTH = [{"class": "bird", "count": 1}, {"class": "car", "count": 1}]
ROWS: list[dict[str, Any]] = [
    {"prompt": "a cat next to a dog", "tag": "single_object", "include": [{"class": "cat", "count": 1}]},
    {
        "prompt": "a dog on the left of a cup",
        "tag": "colors",
        "include": [{"class": "dog", "count": 2, "color": "red"}],
    },
    {"prompt": "a cup near a cat", "tag": "single_object", "include": [{"class": "cup", "count": 1}]},
    {"prompt": "a bird on the top of a car", "tag": "two_object", "include": BOTH},
]
"""With what any metric needs, each its own: a relation in words, a tag, classes."""


class Tiny(NamedTuple):
    """A metric that judges in no time.

    Attributes:
        make: Makes it, with files in a folder of its own.
        lacking: A row that lacks what it needs; None where it needs nothing but a prompt.
    """

    make: Callable[[Path], Measure]
    lacking: dict[str, Any] | None = None


def _clip(folder: Path) -> str:
    return str(clip_networks.saved(clip_networks.network(), folder))


def _aesthetic(folder: Path) -> Measure:
    clip = clip_networks.saved(clip_networks.network(), folder / "clip")
    return test_clip_scores.aesthetic(clip, folder / "layers", test_clip_scores.head())


def _hps(folder: Path, release: Any) -> Measure:
    clip_networks.config("gelu").save_pretrained(folder)
    clip_networks.tokenizer().save_pretrained(folder)
    weights = clip_networks.open_clip_weights()
    return release(
        test_human_preference.published(folder, test_human_preference.FILES[release], weights), base=str(folder)
    )


def _cmmd(folder: Path) -> Measure:
    clip_networks.config().save_pretrained(folder)
    torch.save(clip_networks.network().state_dict(), folder / "pytorch_model.bin")
    return CMMD(str(folder))


def _detector(folder: Path) -> Mask2Former:
    tiny_detectors.save_clip(folder / "clip")
    tiny_detectors.mask2former().save_pretrained(folder / "network")
    return Mask2Former(str(folder / "clip"), model=str(folder / "network"))


def _vqa_score(folder: Path) -> Measure:
    words = test_vqa_score.tokenizer()
    return VQAScore(test_vqa_score.save(folder, test_vqa_score.idefics, words))


def _inception_of(make: Callable[[], Measure], folder: Path) -> Measure:
    test_lpips.keep(_inception.WEIGHTS, test_inception.weights())
    return make()


def _lpips_diversity(folder: Path) -> Measure:
    draw = torch.Generator().manual_seed(4)
    test_lpips.keep(_lpips.TRUNK, test_lpips.trunk(draw))
    test_lpips.keep(_lpips.HEADS, test_lpips.heads(draw))
    return LPIPSDiversity(64)


OPTIONS: dict[str, Tiny] = {
    "aesthetic": Tiny(_aesthetic),
    "blip_vqa": Tiny(lambda folder: BlipVQA(test_blip_vqa.save(folder, 384)), {"prompt": "a cat", "phrases": "a cat"}),
    "clip_score": Tiny(lambda folder: ClipScore(_clip(folder))),
    "cmmd": Tiny(_cmmd),
    "compbench_spatial": Tiny(lambda folder: CompBenchSpatial(_detector(folder), 0.01), {"prompt": "a cat"}),
    "confident": Tiny(lambda folder: Confident(SceneDetector())),
    "drawing": Tiny(lambda folder: Drawing()),
    "fid": Tiny(partial(_inception_of, FID)),
    "geneval": Tiny(lambda folder: GenEval(_detector(folder), 0.01), {"prompt": "a cat", "tag": "single_object"}),
    "hps": Tiny(partial(_hps, release=HPS)),
    "hps_v2": Tiny(partial(_hps, release=FirstHPS)),
    "image_reward": Tiny(lambda folder: test_image_reward.saved(folder, test_image_reward.random_weights())),
    "inception_score": Tiny(partial(_inception_of, lambda: InceptionScore(1))),
    "kid": Tiny(partial(_inception_of, lambda: KID(2, 3))),
    "latent_distance": Tiny(lambda folder: LatentDistance(NOISE)),
    "latent_diversity": Tiny(lambda folder: LatentDiversity(NOISE)),
    "lpips_diversity": Tiny(_lpips_diversity),
    "pick_score": Tiny(lambda folder: PickScore(_clip(folder))),
    "saturation": Tiny(lambda folder: Saturation()),
    "vqa_score": Tiny(_vqa_score, {}),
}
NAMES = components.names(Measure)
CLASSES = {name: components.find(Measure, name) for name in NAMES}
WITHOUT_PROMPT = [name for name, cls in CLASSES.items() if issubclass(cls, Metric) and not cls.reads_prompt]
WITH_REFERENCES = [name for name, cls in CLASSES.items() if cls.needs_references]


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own, in which random weights lie where published ones would, and small images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(mask2former, "SHORT", 64)
        yield


@pytest.fixture(scope="module", params=NAMES)
def metric(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    name = request.param
    if name not in OPTIONS:
        pytest.fail(f"metrics/{name}.py: give a tiny instance of it in OPTIONS of {Path(__file__).name}")
    made = OPTIONS[name].make(tmp_path_factory.mktemp(name))
    assert made.name == name
    return made


def test_no_entry_is_of_a_metric_that_is_gone() -> None:
    assert OPTIONS.keys() <= set(NAMES)


def photographs(metric: Measure, seed: int = 0) -> list[np.ndarray]:
    """Four, of different sizes where the metric allows it."""
    draw = np.random.default_rng(seed)
    sides = [(metric.side,) * 2] * 4 if metric.side else [(64, 64), (40, 90), (70, 48), (33, 35)]
    return [draw.integers(0, 256, (*each, 3), dtype=np.uint8) for each in sides]


def scores_of(metric: Metric, images: list[np.ndarray], rows: list[dict[str, Any]], batch: int) -> list[Score]:
    with metric.open(CPU) as judge:
        parts = (slice(first, first + batch) for first in range(0, len(images), batch))
        return [score for part in parts for score in judge(images[part], rows[part])]


def figures_of(metric: SetMetric, images: list[np.ndarray]) -> dict[str, float]:
    """Of two images each of two prompts."""
    real = partial(photographs, metric, 1) if metric.needs_references else None
    with metric.open(CPU, real) as judge:
        return judge(Shown(image, f"prompt {number % 2}") for number, image in enumerate(images))


def test_neither_the_batch_nor_the_order_matters(metric: Measure) -> None:
    images = photographs(metric)
    if isinstance(metric, SetMetric):
        found = figures_of(metric, images)
        turned = [images[place] for place in (2, 3, 0, 1)]  # each stays with its prompt
        assert figures_of(metric, turned) == pytest.approx(found, rel=1e-3, abs=1e-4)
        assert all(type(each) is float and math.isfinite(each) for each in found.values())
        return
    assert isinstance(metric, Metric)
    together = scores_of(metric, images, ROWS, 4)
    assert [type(each) for each in together] == [Score] * 4
    assert all(type(each.value) is float and math.isfinite(each.value) for each in together)
    assert all(type(each.note) is str and "\n" not in each.note for each in together)
    values = [each.value for each in together]
    assert [each.value for each in scores_of(metric, images, ROWS, 1)] == pytest.approx(values, abs=1e-4)
    turned = scores_of(metric, images[::-1], ROWS[::-1], 3)
    assert [each.value for each in turned[::-1]] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("metric", WITHOUT_PROMPT, indirect=True)
def test_one_that_reads_no_prompt_reads_none(metric: Metric) -> None:
    """Only one that says that the row matters is also asked about others' rows."""
    images = photographs(metric)
    with metric.open(CPU) as judge:
        assert judge(images, ROWS) == judge(images, [{}] * len(images))


def test_what_it_needs_of_a_row_is_said_before_anything_is_loaded(
    metric: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(weights: object) -> Path:
        raise AssertionError("loads")

    for kind in (Hub, Web, Download):
        monkeypatch.setattr(kind, "path", never)
    assert [metric.missing(row) for row in ROWS] == [None] * len(ROWS)
    lacking = OPTIONS[metric.name].lacking
    if lacking is not None:
        said = metric.missing(lacking)
        assert said
        assert "\n" not in said


@pytest.mark.parametrize("metric", WITH_REFERENCES, indirect=True)
def test_one_that_needs_references_says_so(metric: SetMetric) -> None:
    with pytest.raises(InputError, match="references"), metric.open(CPU, None):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself(name: str) -> None:
    """By its class; and, where all options have a default, of the weights that everybody downloads."""
    cls = CLASSES[name]
    assert cls.title
    assert type(cls.higher_is_better) is type(cls.half) is bool
    needed = [each for each in fields(cls) if each.default is each.default_factory is MISSING]
    for weights in () if needed else cls().weights:
        assert weights.size > 0
        assert weights.licence
        assert type(weights.commercial) is bool
        assert weights.licence in str(weights)
        assert "\n" not in str(weights)


def test_each_option_is_part_of_its_identity(metric: Measure, tmp_path: Path) -> None:
    """Scores are kept under it: two that differ in an option share none."""
    identity = metric.identity(CPU)
    assert identity == components.construct(Measure, components.plain(metric), "here").identity(CPU)
    assert identity.startswith(f"{metric.name}-")
    for path, other in changed(metric, components.plain(metric), tmp_path):
        assert other.identity(CPU) != identity, path


def changed(metric: Measure, plain: dict[str, Any], folder: Path) -> Iterator[tuple[str, Measure]]:
    """The metric with another value of each option, those of its detector too."""
    ((name, options),) = plain.items()
    for option, value in options.items():
        inner = components.name_of(metric.detector) if option == "detector" else None
        if inner:
            for each, given in value[inner].items():
                tried = [
                    {name: options | {option: {inner: value[inner] | {each: other}}}}
                    for other in others(given, folder)
                ]
                yield f"{option}.{each}", first_that_fits(tried)
        else:
            hint = typing.get_type_hints(type(metric))[option]
            tried = [{name: options | {option: other}} for other in others(value, folder, hint)]
            yield option, first_that_fits(tried)


def others(value: Any, folder: Path, hint: Any = None) -> Iterator[Any]:
    """Values that an option might have as well."""
    if typing.get_origin(hint) is typing.Literal:
        yield from (each for each in typing.get_args(hint) if each != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, value + 0.01)
    elif isinstance(value, list):
        yield from ([value[0] - 0.01, *value[1:]], [*value[:-1], value[-1] + 0.01])
    elif isinstance(value, str) and Path(value).is_dir():
        yield str(shutil.copytree(value, folder / f"copy{len(list(folder.iterdir()))}"))
    elif value == NOISE:
        yield "package://ddspo.scenes/flow"
    else:
        yield f"{value} {{}}" if value else "other"


def first_that_fits(tried: list[dict[str, Any]]) -> Measure:
    for each in tried:
        try:
            return components.construct(Measure, each, "here")
        except InputError:
            continue
    raise AssertionError(f"no other value fits: {tried}")


def networks() -> list[torch.nn.Module]:
    return [each for each in gc.get_objects() if issubclass(type(each), torch.nn.Module)]


def test_all_is_freed_when_its_block_ends(metric: Measure) -> None:
    """No reference to a network is left, of whatever it had loaded and used."""
    before = {id(each) for each in networks()}
    loaded = _used(metric, before)
    gc.collect()
    assert bool(loaded) == bool(metric.weights)
    assert not [type(each()).__name__ for each in loaded if each() is not None]


def _used(metric: Measure, before: set[int]) -> list[weakref.ref[torch.nn.Module]]:
    images = photographs(metric)
    if isinstance(metric, SetMetric):
        with metric.open(CPU, partial(photographs, metric, 1)) as measure:
            measure(Shown(image, "a") for image in images)
            return [weakref.ref(each) for each in networks() if id(each) not in before]
    assert isinstance(metric, Metric)
    with metric.open(CPU) as judge:
        judge(images, ROWS)
        return [weakref.ref(each) for each in networks() if id(each) not in before]
