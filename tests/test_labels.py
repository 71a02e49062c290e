"""Pairs of one prompt, chosen by a judge among several samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from holding import holding
from judges import Plain

from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.metrics.base import Metric, Score
from ddspo.objectives.gap_weight import GapWeight
from ddspo.pairs.store import PairStore
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Labels, Sampling
from ddspo.sampling.samples import best_and_worst
from ddspo.stages.sample import sample
from ddspo.stages.train import Method
from ddspo.workflow import Workflow

RECIPE = Path(__file__).parents[1] / "recipes/scenes-data-driven.yaml"
PROMPTS = [
    {"id": f"p{number}", "prompt": prompt, "liked": prompt != "x"} for number, prompt in enumerate(("a b", "x", "c"))
]


@dataclass(frozen=True)
class Brightness(Plain):
    """The mean of an image; a prompt that is not liked gets nothing, whatever the image."""

    def missing(self, row: Mapping[str, Any]) -> str | None:
        return None if "liked" in row else "no `liked`"

    def judge(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
        values = [float(image.mean()) * row["liked"] for image, row in zip(images, rows, strict=True)]
        return [Score(value, f"{value:.0f}") for value in values]


class Darkness(Brightness):
    """The same, of which less is better."""

    higher_is_better = False


def labelled(
    run: RunFolder, prompts: Sequence[Mapping[str, Any]] = PROMPTS, judge: Metric | None = None, **more: Any
) -> RunFolder:
    labels = Labels(judge or Brightness(), candidates=3)
    settings = Sampling(pairs=6, steps=2, guidance=2, batch=2, labels=labels, **more)
    write_rows(run.prompts, prompts)
    sample(run, SD.tiny(), Model("tiny"), settings, 5, Accelerator(), Progress(speaks=False))
    return run


def shards(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.pairs.glob("*.parquet"))}


def test_best_and_worst() -> None:
    """Of equal values the greatest seed wins and the least loses; if all are equal there is no pair.

    Of 0, 1, 2, 2, 3 the pairs are 3 and 0, 2 and 1; the middle one is left over, and is no pair with itself.
    """
    assert best_and_worst([0.0, 1.0, 0.5], [1, 2, 3]) == [(1, 0)]
    assert best_and_worst([1.0, 0.0, 1.0, 0.0], [9, 4, 3, 5]) == [(0, 1)]
    assert best_and_worst([1.0, 0.0, 1.0, 0.0], [3, 5, 9, 4]) == [(2, 3)]
    assert best_and_worst([1.0, 0.0, 1.0, 0.0], [3, 5, 9, 4], pairs=3) == [(2, 3), (0, 1)]
    assert best_and_worst([2.0, 0.0, 3.0, 1.0, 2.0], [1, 2, 3, 4, 5], pairs=9) == [(2, 1), (4, 3)]
    assert best_and_worst([0.3, 0.3], [1, 2]) == []


def test_the_best_wins_and_the_worst_loses(tmp_path: Path) -> None:
    """Six turns over three prompts, of which one is never liked, give four pairs in shards of 1, 1 and 2.

    Both latents are what their recorded seeds give, and their scores are those of the judge: the largest and the
    smallest of three.
    """
    run = labelled(RunFolder(tmp_path))
    rows = [row for path in sorted(run.pairs.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [pq.read_metadata(path).num_rows for path in sorted(run.pairs.glob("*.parquet"))] == [1, 1, 2]
    assert [row["id"] for row in rows] == ["p2~0", "p0~0", "p2~1", "p0~1"]
    store, backbone = PairStore.open(run.pairs), SD.tiny()
    data = store.take(range(4))
    assert not store.has_degraded
    assert data.degraded is None
    assert list(store.texts(degraded=True)) == ["c", "a b", "c", "a b"]
    for side in ("win", "lose"):
        latents = backbone.generate(data.prompts, [row[f"{side}_seed"] for row in rows], 2, 2)
        torch.testing.assert_close(getattr(data.latents, side).float(), latents, rtol=1e-2, atol=1e-2)
        scores = [image.mean() for image in backbone.decode(getattr(data.latents, side).float())]
        assert [row[f"{side}_score"] for row in rows] == pytest.approx(scores, abs=0.5)
    assert all(row["win_score"] > row["lose_score"] and row["win_seed"] != row["lose_seed"] for row in rows)
    pictures = read_rows(run.images / "pairs" / "pairs.jsonl")
    assert [(row["n"], row["id"], row["lose_note"]) for row in pictures] == [
        (n, row["id"], f"{row['lose_score']:.0f}") for n, row in enumerate(rows)
    ]
    assert (run.images / "pairs" / "3-lose.png").exists()


def test_where_less_is_better_the_least_wins(tmp_path: Path) -> None:
    run = labelled(RunFolder(tmp_path), judge=Darkness())
    rows = [row for path in sorted(run.pairs.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert rows
    assert all(row["win_score"] < row["lose_score"] for row in rows)


def test_a_missing_shard_comes_back_the_same(tmp_path: Path) -> None:
    run = labelled(RunFolder(tmp_path))
    before = shards(run)
    (run.pairs / "000001.parquet").unlink()
    assert shards(labelled(run)) == before


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    liked = {"a b": False, "x": False, "c": True}
    prompts = [row | {"liked": liked[str(row["prompt"])]} for row in PROMPTS]
    store = PairStore.open(labelled(RunFolder(tmp_path), prompts).pairs)
    assert store.sizes == [1, 0, 1]
    assert store.take([0, 1]).ids == ["p2~0", "p2~1"]


def test_what_labels_cannot_use_is_named(tmp_path: Path) -> None:
    """No two samples that differ, and a row without what the judge reads."""
    with pytest.raises(InputError, match="all 3 samples of every prompt score alike"):
        labelled(RunFolder(tmp_path / "a"), [row | {"liked": False} for row in PROMPTS])
    with pytest.raises(InputError, match="p0: no `liked`"):
        labelled(RunFolder(tmp_path / "b"), [{"id": "p0", "prompt": "a b"}])
    assert not list((tmp_path / "b").rglob("*.parquet"))


def test_other_labels_are_other_pairs(tmp_path: Path) -> None:
    """The shards of a run say by what judge they were made."""
    run = labelled(RunFolder(tmp_path))
    settings = Sampling(pairs=6, steps=2, guidance=2, batch=2, labels=Labels(Brightness(), candidates=2))
    with pytest.raises(InputError, match="made with another recipe"):
        sample(run, SD.tiny(), Model("tiny"), settings, 5, Accelerator(), Progress(speaks=False))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "policy_pair=training_free",
            "TrainingFree reads degraded prompts, and labelled and most imported pairs have none",
        ),
        ("sample.labels.candidates=1", "sample.labels.candidates: 1: input should be greater than or equal to 2"),
        ("sample.labels={}", "sample.labels.judge: missing"),
        ("prompts=PLAIN", "prompts: PLAIN:1: tag None is none of"),
        ("pretrain.train.batch=33", "pretrain.train.batch 33: not a multiple of pretrain.train.device_batch 32"),
        ("reference.refreshed.every=200", "reference: every 200 is never reached in 120 updates"),
    ],
)
def test_mistakes_are_found_before_long_work(tmp_path: Path, override: str, message: str) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("a red circle\n")
    with pytest.raises(InputError) as caught:
        Workflow.start(load(RECIPE, [f"out={tmp_path / 'runs'}", override.replace("PLAIN", str(plain))]))
    assert message.replace("PLAIN", str(plain)) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_degraded_prompts_are_not_needed(tmp_path: Path) -> None:
    """A prompt of one word cannot be degraded; labelled pairs do not ask, and the judge's columns go through."""
    row = {"id": "a", "prompt": "circle", "tag": "single_object", "include": [{"class": "circle", "count": 1}]}
    write_rows(tmp_path / "p.jsonl", [row])
    flow = Workflow.start(load(RECIPE, [f"out={tmp_path / 'runs'}", f"prompts={tmp_path / 'p.jsonl'}"]))
    flow.run(("degrade",))
    assert read_rows(flow.folder.prompts) == [row]
    other = ["policy_pair=forward_noise", "draw.latents=both", "sample.labels=null"]
    with pytest.raises(InputError, match="was begun with another degradation"):
        Workflow.start(load(RECIPE, [f"out={tmp_path / 'runs'}", *other]))


def test_the_training_stage_checks_too() -> None:
    """Whoever calls it from Python hears the same."""
    recipe = load(RECIPE)
    method = Method(TrainingFree(), recipe.objective, recipe.adaptation)
    with pytest.raises(InputError, match="imported pairs have none"):
        method.check(recipe.train, holding())
    method.check(recipe.train, holding(degraded=True))
    weighed = Method(ForwardNoise(), GapWeight(), recipe.adaptation)
    with pytest.raises(InputError, match="gap_weight weighs pairs by the gap of their scores, and these have none"):
        weighed.check(recipe.train, holding())
    weighed.check(recipe.train, holding(scores=True))


def test_a_judges_scores_are_gaps(tmp_path: Path) -> None:
    """Positive ones, whichever way is up."""
    for judge in (Brightness(), Darkness()):
        store = PairStore.open(labelled(RunFolder(tmp_path / type(judge).__name__), judge=judge).pairs)
        gap = store.take(range(4)).marks.gap
        assert gap is not None
        assert (gap > 0).all()
