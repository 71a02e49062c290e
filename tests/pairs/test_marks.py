"""What pairs bring beside latents: gaps of scores, and the very noise that they were sampled from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_store import SHAPE, latents, rows
from torch import Tensor

from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.maths.paths import RectifiedFlow
from ddspo.pairs.marks import SCORES
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.sampling.maker import LABELLED
from ddspo.sampling.options import Sampling
from ddspo.stages.sample import sample
from ddspo.training.batches import Batches
from ddspo.training.drawing import Drawing
from ddspo.training.texts import EncodedTexts

CPU = torch.device("cpu")
PROMPTS = [
    {"id": f"p{number}", "prompt": text, "degraded": [{"text": f"no {text}", "kind": "x"}]}
    for number, text in enumerate(("ab", "cd", "ef"))
]


def store_of(folder: Path, origin: Origin, extra: Sequence[dict[str, object]]) -> PairStore:
    begin(folder)
    writer = PairWriter(folder, origin)
    both = [row | more for row, more in zip(rows(0, len(extra)), extra, strict=True)]
    writer.add(0, 0, both, latents(0, len(extra)))
    writer.close(0, 1)
    finish(folder, 1)
    return PairStore.open(folder)


SCORED = [
    {"win_score": 1e8 + 0.25, "lose_score": 1e8, "win_seed": 2**62 + 1, "lose_seed": 3},
    {"win_score": 0.5, "lose_score": 2.0, "win_seed": 5, "lose_seed": 2**63 - 1},
]


def test_a_gap_is_how_much_better_the_winner_is(tmp_path: Path) -> None:
    """1e8 + 1/4 less 1e8 is 1/4, which float32 alone would lose; 1/2 less 2 is -3/2, or 3/2 where less is better.

    Seeds come through with all of their 63 bits.
    """
    more = store_of(tmp_path / "a", Origin({"model": "m"}, SHAPE, LABELLED), SCORED)
    less = store_of(tmp_path / "b", Origin({"model": "m", "less_is_better": True}, SHAPE, LABELLED), SCORED)
    for store, sign in ((more, 1), (less, -1)):
        assert (store.has_scores, store.has_seeds, store.has_labels) == (True, True, False)
        marks = store.take([1, 0]).marks
        assert marks.gap is not None
        assert marks.gap.dtype == torch.float32
        assert marks.gap.tolist() == [sign * -1.5, sign * 0.25]
        assert marks.seeds is not None
        assert [side.tolist() for side in marks.seeds] == [[5, 2**62 + 1], [2**63 - 1, 3]]
        held = store.take([0, 1])
        assert (held.has_scores, held.has_seeds, held.has_labels) == (True, True, False)
        again = held.take([1, 1]).marks
        assert again.gap is not None
        assert again.gap.tolist() == [sign * -1.5] * 2
    bare = store_of(tmp_path / "c", Origin({"model": "m"}, SHAPE, {}), [{}, {}])
    assert bare.take([0]).marks == (None, None, None)


def test_imported_pairs_have_no_seeds(tmp_path: Path) -> None:
    """Of degraded captions the column is there, and empty."""
    origin = Origin({"model": "m", "dataset": "d"}, SHAPE, DEGRADED)
    store = store_of(tmp_path, origin, [{"seed": None}, {"seed": None}])
    assert not store.has_seeds
    assert store.take([0, 1]).marks.seeds is None


def test_a_missing_score_is_damage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a row without lose_score"):
        store_of(tmp_path, Origin({}, SHAPE, LABELLED), [SCORED[0] | {"lose_score": None}]).take([0])


@dataclass
class Watch:
    """Every initial latent that sampling began with, by its seed."""

    seen: dict[int, Tensor]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found, initial_noise = Watch({}), Backbone.initial_noise

    def noted(self: Backbone, seeds: Sequence[int]) -> Tensor:
        noise = initial_noise(self, seeds)
        found.seen |= dict(zip(seeds, noise, strict=True))
        return noise

    monkeypatch.setattr(Backbone, "initial_noise", noted)
    return found


def sampled(folder: Path, backbone: Backbone, sides: tuple[str, ...] = ("win", "lose")) -> Batches:
    run = RunFolder(folder)
    settings = Sampling(pairs=3, steps=2, guidance=1, batch=2)
    write_rows(run.prompts, PROMPTS)
    sample(run, backbone, Model("tiny"), settings, 5, Accelerator(), Progress(speaks=False), sides)
    store = PairStore.open(run.pairs)
    texts = EncodedTexts(backbone, list(store.texts(degraded=True)), folder / "texts")
    return Batches(store, texts, 3, 7, backbone.path, Drawing(noise="generating"))


@pytest.mark.parametrize("kind", [SD3, Flux, SD])
def test_pairs_are_noised_with_what_they_were_sampled_from(kind: type[Backbone], tmp_path: Path, watch: Watch) -> None:
    """To the last bit, at each visit, on both sides, whose seed is one; x_t of a flow is on the straight line."""
    batches = sampled(tmp_path, kind.tiny())
    seeds = [batches.data.row(row)["seed"] for row in range(3)]  # type: ignore[attr-defined]
    assert len(watch.seen) == 3
    began = torch.stack([watch.seen[seed] for seed in seeds])
    first, later = (batches.view([(row, visit) for row in range(3)], CPU) for visit in (0, 4))
    for view in (first, later):
        for noise in view.noise:
            assert noise.dtype == torch.float32
            assert torch.equal(noise, began)
        for x_t, x0 in zip(view.x_t, view.x0, strict=True):
            assert torch.equal(x_t, batches.path.noise(x0, began, view.t))
    assert not torch.equal(first.t, later.t)
    fresh = replace(batches, drawing=Drawing()).view([(0, 0), (1, 0), (2, 0)], CPU)
    assert torch.equal(fresh.t, first.t)
    assert not torch.equal(fresh.noise.win, began)


def test_one_latent_of_its_own_noise_is_one_state(tmp_path: Path) -> None:
    batches = sampled(tmp_path, SD3.tiny(), ("win",))
    one = replace(batches, drawing=Drawing(noise="generating", latents="winner"))
    assert one.drawing.one_state
    assert one.view([(1, 0)], CPU).one_latent


def test_each_side_has_the_noise_of_its_own_seed(tmp_path: Path) -> None:
    """Of the best and the worst of several samples, whose seeds differ; `loser` takes that of the loser."""
    store = store_of(tmp_path / "pairs", Origin({"model": "m"}, SHAPE, LABELLED), SCORED)
    backbone = SD.tiny()
    texts = EncodedTexts(backbone, list(store.texts(degraded=False)), tmp_path / "texts")
    batches = Batches(store, texts, 2, 7, RectifiedFlow(), Drawing(noise="generating"))
    view = batches.view([(0, 0), (1, 1)], CPU)
    for noise, side in zip(view.noise, ("win", "lose"), strict=True):
        for place in range(2):
            own = np.random.default_rng(SCORED[place][f"{side}_seed"]).standard_normal(SHAPE, dtype=np.float32)
            assert torch.equal(noise[place], torch.from_numpy(own))
    assert view.gap is not None
    assert view.gap.tolist() == [0.25, -1.5]
    assert view.label is None
    loser = replace(batches, drawing=Drawing(noise="generating", latents="loser")).view([(1, 1)], CPU)
    assert torch.equal(loser.noise.win[0], view.noise.lose[1])
    assert SCORES.win in store.origin.columns


def test_pairs_without_seeds_have_no_such_noise(tmp_path: Path) -> None:
    store = store_of(tmp_path / "pairs", Origin({"model": "m"}, SHAPE, {}), [{}, {}])
    texts = EncodedTexts(SD.tiny(), list(store.texts(degraded=False)), tmp_path / "texts")
    with pytest.raises(InputError, match=r"draw.noise: generating: the pairs keep no seeds"):
        Batches(store, texts, 2, 7, RectifiedFlow(), Drawing(noise="generating")).view([(0, 0)], CPU)
