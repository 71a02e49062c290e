"""Pairs by the policy on the way: whose they are, which they are, and that an interruption changes nothing."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from interruptions import history
from safetensors.torch import load_file

from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.checks import Checked
from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.maths.pair import split
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Sampling
from ddspo.sampling.plan import Plan
from ddspo.settings import settings_of
from ddspo.training.batches import Batches
from ddspo.training.fit import Fit
from ddspo.training.on_policy import OnPolicy
from ddspo.training.policies import Policies
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL}
prompts: PROMPTS
sample: {pairs: 4, steps: 2, guidance: 1.0, batch: 4}
adaptation: {lora: {rank: 2}}
train: {steps: 6, batch: 4, device_batch: 4, lr: 0.001, checkpoint_every: 2, keep: 3}
on_policy: {every: 2}
validation: {final: 0}
trackers: []
"""
STAGES = ("degrade", "sample", "train")


def run(recipe: Path, name: str, *overrides: str) -> RunFolder:
    out = recipe.parent / "runs"
    Workflow.start(load(recipe, [f"out={out}", f"name={name}", *overrides])).run(STAGES)
    return RunFolder(out / name)


@pytest.mark.parametrize("adaptation", [LoRA(rank=2), Full()], ids=["lora", "full"])
def test_each_round_has_the_pairs_of_its_policy(recipe: Path, tiny_folder: Path, adaptation: Adaptation) -> None:
    """Rounds 1 and 2 begin after updates 2 and 4: their latents are those that the checkpoints' weights sample.

    Two prompts in turn give four pairs a round: the next ones of one sequence, with new seeds.
    """
    overrides = ["adaptation={full: {}}", "train.lr=1e-5"] if isinstance(adaptation, Full) else []
    folder = run(recipe, "whole", *overrides)
    assert sorted(path.name for path in folder.rounds.iterdir()) == ["0001", "0002"]
    first = PairStore.open(folder.pairs)
    names = {row.rpartition("~")[0] for row in first.take(range(4)).ids}
    seeds = {first.row(row)["seed"] for row in range(4)}
    for number in (1, 2):
        store = PairStore.open(folder.round(number))
        data, rows = store.take(range(4)), [store.row(row) for row in range(4)]
        assert store.origin.made["round"] == number
        assert {row["id"] for row in rows} == {f"{name}~{2 * number + turn}" for name in names for turn in range(2)}
        seeds |= {row["seed"] for row in rows}
        backbone = SD.load(Model(str(tiny_folder)))
        texts = [row[side] for side in ("prompt", "degraded") for row in rows]
        base = split(backbone.generate(texts, [row["seed"] for row in rows] * 2, 2, 1.0))
        policies = Policies.of(backbone, adaptation, 0)
        policies.restore(load_file(folder.checkpoints / f"000000{2 * number}" / "weights.safetensors"))
        backbone.denoiser.eval()
        policy = split(backbone.generate(texts, [row["seed"] for row in rows] * 2, 2, 1.0))
        for side in ("win", "lose"):
            stored = getattr(data.latents, side)
            assert torch.equal(stored, getattr(policy, side).half())
            assert not torch.equal(stored, getattr(base, side).half())
    assert len(seeds) == 12
    Manifest(folder).forget(["train"])
    assert not folder.rounds.exists()
    assert folder.pairs.exists()


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, recipe: Path, *overrides: str) -> None:
    """As if the process were killed when it begins update `step`, counted from 0."""
    update = Fit._update

    def killed(self: Fit, index: int) -> dict[str, float]:
        if index == step:
            self.batches.rows(index)
            raise KeyboardInterrupt
        return update(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_update", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, "cut", *overrides)


def left(folder: RunFolder) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    files = sorted(folder.rounds.rglob("*.*"))
    weights = load_file(folder.aligned / "pytorch_lora_weights.safetensors")
    return {str(p.relative_to(folder.path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}, weights


def test_an_interruption_changes_nothing(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after 3, inside round 1, and after 4, where round 2 begins, with visited states.

    Killed at the third update, whose checkpoint is gone: from the start. At the fourth: inside round 1, whose pairs
    are there. At the fifth: at the beginning of round 2, which was made, and of which one shard goes.
    """
    more = ["sample.states=1", "draw.states=visited", "sample.pairs=8", "sample.batch=2"]
    whole = run(recipe, "whole", *more, "train.checkpoint_every=1")
    assert PairStore.open(whole.round(2), states=True).take([0]).has_states
    cut = RunFolder(whole.path.parent / "cut")
    killed_at(2, monkeypatch, recipe, *more, "train.checkpoint_every=3")
    assert sorted(path.name for path in cut.rounds.iterdir()) == ["0001"]
    killed_at(3, monkeypatch, recipe, *more, "train.checkpoint_every=3")
    kept = PairStore.open(cut.round(1)).take([5]).ids
    killed_at(4, monkeypatch, recipe, *more, "train.checkpoint_every=1")
    assert PairStore.open(cut.round(1)).take([5]).ids == kept
    next(cut.round(2).glob("*2.parquet")).unlink()
    run(recipe, "cut", *more, "train.checkpoint_every=1")
    (ours, weights), (theirs, expected) = left(cut), left(whole)
    assert ours == theirs
    assert history(cut.log) == history(whole.log)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_rounds_that_no_checkpoint_needs_are_gone(recipe: Path) -> None:
    """One checkpoint is kept, of update 4 when round 2 begins."""
    folder = run(recipe, "few", "train.keep=1")
    assert [path.name for path in folder.rounds.iterdir()] == ["0002"]


def test_a_round_that_is_gone_cannot_be_made_again(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its policy is no longer there."""
    killed_at(3, monkeypatch, recipe, "train.checkpoint_every=3")
    shutil.rmtree(recipe.parent / "runs/cut/rounds")
    with pytest.raises(InputError, match=r"rounds/0001: the pairs of this round are gone: train again with --fresh"):
        run(recipe, "cut", "train.checkpoint_every=3")


def test_plans_go_on_where_the_one_before_ended(tmp_path: Path, recipe: Path) -> None:
    flow = Workflow.start(load(recipe, [f"out={tmp_path}"]))
    flow.run(("degrade",))
    long, second = (Plan(flow.folder.prompts, Sampling(pairs=5), 3, first) for first in (0, 5))
    rows = list(long.rows(0, 10))
    assert list(second.rows(0, 5)) == rows[5:]
    every = [rows[place][name] for place in (5, 6) for name in ("prompt", "degraded")]
    assert list(second.texts(2, degraded=True)) == every
    assert list(second.texts(2, degraded=False)) == every[::2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("on_policy.every=6", r"on_policy.every 6: never reached in 6 updates"),
        ("on_policy.every=0", r"on_policy.every: 0: input should be greater than 0"),
        ("dataset={source: here, format: folders}", "on_policy: the pairs are those of a dataset"),
    ],
)
def test_what_cannot_work_is_refused(recipe: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workflow.start(load(recipe, [f"out={tmp_path}", override]))


def test_how_many_rounds_there_are() -> None:
    """With 10 updates and 5 a round the second begins after the fifth, and none after the tenth."""
    assert [OnPolicy(5).rounds(steps) for steps in (5, 6, 10, 11)] == [0, 1, 1, 2]


def test_a_run_may_not_go_on_with_other_rounds(recipe: Path, tmp_path: Path) -> None:
    flow = Workflow(Checked(load(recipe, [f"out={tmp_path}"]), {}, {}), Accelerator(), Progress(speaks=False))
    assert settings_of("train", flow.found)["on_policy"] == {"every": 2}
    assert "on_policy" not in settings_of("sample", flow.found)


def test_each_round_draws_in_an_order_of_its_own(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 32 pairs of a round 8 are drawn: were they at the same places each time, 24 would never be."""
    drawn: list[frozenset[int]] = []
    rows = Batches.rows

    def noted(self: Batches, step: int) -> list[tuple[int, int]]:
        found = rows(self, step)
        drawn.append(frozenset(row for row, _ in found))
        return found

    monkeypatch.setattr(Batches, "rows", noted)
    run(recipe, "orders", "sample.pairs=32", "sample.steps=1", "sample.batch=32")
    rounds = [drawn[first] | drawn[first + 1] for first in (0, 2, 4)]
    assert [len(places) for places in rounds] == [8, 8, 8]
    assert len(set(rounds)) == 3
