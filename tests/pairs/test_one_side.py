"""Pairs of which one latent alone is looked at: nothing else is sampled, kept or read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_store import MADE, SHAPE, latents, rows
from typer.testing import CliRunner

from ddspo import recipe as recipes
from ddspo.cli import app
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.data import States
from ddspo.pairs.shards import DEGRADED, Origin, state_columns
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL}
prompts: PROMPTS
sample: {pairs: 4, steps: 2, guidance: 1.0, batch: 2}
adaptation: {lora: {rank: 2}}
train: {steps: 2, batch: 4, device_batch: 2, lr: 0.001}
draw: {anchor: 500}
validation: {final: 0}
trackers: []
"""
STAGES = ("degrade", "sample", "train")


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("MODEL", str(tiny_folder)).replace("PROMPTS", str(tmp_path / "prompts.txt")))
    return path


def run(recipe: Path, name: str, *overrides: str) -> RunFolder:
    given = recipes.load(recipe, [f"out={recipe.parent}", f"name={name}", *overrides])
    Workflow.start(given).run(STAGES)
    return RunFolder(given.folder)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.aligned / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize("side", Pair._fields)
def test_the_only_side_stands_for_both(tmp_path: Path, side: str) -> None:
    """Winner k holds k and loser k holds -k; states of two times hold the same."""
    origin = Origin(MADE, SHAPE, DEGRADED | state_columns(2, SHAPE, (side,)), (side,))
    begin(tmp_path)
    writer, both = PairWriter(tmp_path, origin), latents(0, 3)
    visited = both.map(lambda part: part[:, None].expand(3, 2, *SHAPE))
    writer.add(0, 0, rows(0, 3), both, States(torch.tensor([[9.0, 5.0]] * 3), visited))
    writer.close(0, 1)
    finish(tmp_path, 1)
    store = PairStore.open(tmp_path, states=True)
    assert store.sides == (side,)
    assert not {"win", "lose", "win_states", "lose_states"} - {side, f"{side}_states"} & set(store.origin.schema.names)
    some, sign = store.take([2, 1]), 1 if side == "win" else -1
    assert some.latents.win is some.latents.lose
    assert some.latents.win[:, 0, 0, 0].tolist() == [2 * sign, 1 * sign]
    assert some.states is not None
    assert some.states.latents.lose[:, 1, 0, 0, 0].tolist() == [2 * sign, 1 * sign]
    store.verify(SHAPE)


def test_sides_are_part_of_a_stores_origin(tmp_path: Path) -> None:
    begin(tmp_path)
    writer = PairWriter(tmp_path, Origin(MADE, SHAPE, DEGRADED, ("win",)))
    writer.add(0, 0, rows(0, 3), latents(0, 3))
    writer.close(0, 1)
    finish(tmp_path, 1)
    with pytest.raises(InputError, match=r"made with another draw.latents, shape") as error:
        PairWriter(tmp_path, Origin(MADE, (1, 1, 1), DEGRADED)).missing(0, 1)
    assert "--fresh" in str(error.value)


@pytest.mark.parametrize(("latents", "side"), [("winner", "win"), ("loser", "lose")])
def test_what_nobody_looks_at_is_not_sampled(recipe: Path, latents: str, side: str) -> None:
    """Training sees the very latents that it has with both sides, up to what another batch does to their last bits.

    Four pairs of one side take the bytes of two pairs of both.
    """
    one, both = run(recipe, "one", f"draw.latents={latents}"), run(recipe, "both")
    ours, theirs = PairStore.open(one.pairs), PairStore.open(both.pairs)
    assert (ours.sides, theirs.sides) == ((side,), ("win", "lose"))
    each = getattr(theirs.take(range(4)).latents, side)
    torch.testing.assert_close(ours.take(range(4)).latents.win, each, rtol=1e-2, atol=1e-2)
    assert 2 * ours.take(range(4)).latents.win.nbytes == sum(part.nbytes for part in theirs.take(range(4)).latents)
    shown = read_rows(one.images / "pairs" / "pairs.jsonl")
    assert [row["sides"] for row in shown] == [[side]] * 4
    assert sorted(path.name for path in (one.images / "pairs").glob("0-*.png")) == [f"0-{side}.png"]
    with_both = RunFolder(one.path.parent / "both")
    given = recipes.load(recipe, [f"out={recipe.parent}", "name=both", f"draw.latents={latents}"])
    Workflow.start(given, fresh=True, first="train").run(("train",))
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(with_both)[name])
    text = recipe.parent / "one"
    found = CliRunner().invoke(app, ["pairs", str(text)])
    assert found.exit_code == 0, found.output
    assert f"  {side}: " in found.output
    assert "difference" not in found.output


def test_both_sides_serve_a_run_that_looks_at_one(recipe: Path) -> None:
    """They were sampled before: nothing is sampled again."""
    first = run(recipe, "run")
    before = {path.name: path.read_bytes() for path in first.pairs.iterdir()}
    given = recipes.load(recipe, [f"out={recipe.parent}", "name=run", "draw.latents=winner"])
    Workflow.start(given, fresh=True, first="train").run(("train",))
    assert {path.name: path.read_bytes() for path in first.pairs.iterdir()} == before
    assert read_rows(first.log)[0]["win_displacement"] == read_rows(first.log)[0]["lose_displacement"]


def test_one_side_does_not_serve_a_run_that_looks_at_both(recipe: Path) -> None:
    run(recipe, "run", "draw.latents=winner")
    for other, missing in (("both", "losers"), ("loser", "losers")):
        given = recipes.load(recipe, [f"out={recipe.parent}", "name=run", f"draw.latents={other}"])
        flow = Workflow.start(given, fresh=True, first="train")
        with pytest.raises(InputError, match=f"draw.latents: {other}: the pairs hold no {missing}: make them anew"):
            flow.run(("train",))


@pytest.mark.parametrize(
    "overrides",
    [["sample.labels={candidates: 2, judge: {geneval: {detector: scenes}}}"], ["policy_pair=data_driven"]],
    ids=["labels", "data-driven"],
)
def test_judges_and_pretraining_look_at_both(recipe: Path, overrides: list[str]) -> None:
    given = recipes.load(recipe, ["draw.latents=winner", *overrides])
    assert given.sides == ("win", "lose")


def test_rounds_of_one_side(recipe: Path) -> None:
    found = run(recipe, "run", "draw.latents=winner", "on_policy.every=1")
    assert PairStore.open(found.round(1)).sides == ("win",)


def test_rounds_of_generating_noise(recipe: Path) -> None:
    """Pairs by the policy keep the seeds of their own."""
    found = run(recipe, "run", "draw.noise=generating", "on_policy.every=1")
    seeds = [PairStore.open(folder).take(range(4)).marks.seeds for folder in (found.pairs, found.round(1))]
    assert all(each is not None and torch.equal(each.win, each.lose) for each in seeds)
    assert len(read_rows(found.log)) == 2


def test_a_damaged_shard_of_one_side_is_made_again(recipe: Path) -> None:
    found = run(recipe, "run", "draw.latents=winner")
    shard = found.pairs / "000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"x" + whole[-8:])
    given = recipes.load(recipe, [f"out={recipe.parent}", "name=run", "draw.latents=winner"])
    Workflow.start(given).run(("sample",))
    assert shard.read_bytes() == whole
    assert np.isfinite(PairStore.open(found.pairs).take([0]).latents.win.numpy()).all()
