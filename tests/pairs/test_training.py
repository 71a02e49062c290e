"""Training on a store: the same batches as from memory, and nothing that is not in memory is needed."""

from pathlib import Path

import pytest
import torch
from test_store import SHAPE, write

from ddspo.agreement import agree
from ddspo.errors import InputError
from ddspo.maths.paths import RectifiedFlow
from ddspo.pairs import store as stores
from ddspo.pairs.data import Pairs
from ddspo.pairs.shards import numbers_of
from ddspo.pairs.store import PairStore
from ddspo.schedules.constant import Constant
from ddspo.training import batches as module
from ddspo.training.batches import Batches
from ddspo.training.drawing import PLAIN, Drawing

CPU = torch.device("cpu")


class Lengths:
    """Conditions that only count."""

    def of(self, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor([len(text) for text in texts], device=device)}


def drawn(pairs: Pairs, drawing: Drawing = PLAIN) -> Batches:
    return Batches(pairs, Lengths(), 4, 7, RectifiedFlow(), drawing)  # type: ignore[arg-type]


def test_a_store_gives_what_memory_gives(tmp_path: Path) -> None:
    """Also with prompts of others, where one window holds all."""
    store = PairStore.open(write(tmp_path))
    data = store.take(range(9))
    for drawing in (PLAIN, Drawing(other_prompts=Constant(0.5))):
        ours, theirs = drawn(store, drawing), drawn(data, drawing)
        for step in range(5):
            rows = ours.rows(step)
            assert rows == theirs.rows(step)
            one, other = ours.view(rows, CPU), theirs.view(rows, CPU)
            assert torch.equal(one.x_t.lose, other.x_t.lose)
            assert torch.equal(one.condition["length"], other.condition["length"])
            assert torch.equal(one.degraded["length"], other.degraded["length"])


def test_little_memory_is_enough_and_any_step_can_be_the_first(tmp_path: Path) -> None:
    """One shard of three at a time; another prompt is one of those that are there."""
    store = PairStore.open(write(tmp_path), memory=1e-9)
    assert store.window == 1
    others = drawn(store, Drawing(other_prompts=Constant(1.0)))
    for step in (0, 1, 2, 3):
        rows = others.rows(step)
        assert drawn(PairStore.open(tmp_path, memory=1e-9)).rows(step) == rows
        chosen = others.rows_of_prompts(rows, torch.ones(len(rows)))
        assert all(one != row and one // 3 == row // 3 for one, (row, _) in zip(chosen, rows, strict=True))
        assert len(store._held) == 1


def test_one_prompt_in_memory_has_no_other(tmp_path: Path) -> None:
    store = PairStore.open(write(tmp_path, shards=2, parts=1), memory=1e-9)
    always = drawn(store, Drawing(other_prompts=Constant(1.0)))
    always._known[0,] = always._known[1,] = module.Prompts([0], {"a 0": 0})
    with pytest.raises(InputError, match=r"the pairs in memory have one prompt: raise train.window"):
        always.view(always.rows(0), CPU)


def test_pairs_of_another_size_are_refused(tmp_path: Path) -> None:
    store = PairStore.open(write(tmp_path))
    for pairs in (store, store.take(range(9))):
        with pytest.raises(InputError, match=r"latents are \[2, 3, 1\], and the model's are \[4, 3, 1\]"):
            agree(lambda: pairs.verify((4, 3, 1)))  # noqa: B023
        agree(lambda: pairs.verify(SHAPE))  # noqa: B023


def test_pairs_in_memory_are_checked_too(tmp_path: Path) -> None:
    data = PairStore.open(write(tmp_path)).take([0, 1, 1])
    with pytest.raises(InputError, match="id 'i1' is there twice"):
        data.verify(SHAPE)
    data = PairStore.open(tmp_path).take([0, 1])
    data.latents.lose[1, 0] = torch.nan
    with pytest.raises(InputError, match="lose of 'i1' is not finite"):
        data.verify(SHAPE)


def test_other_prompts_read_texts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of the pairs themselves are copied, two sides of one shard, and of those whose prompts they get none."""
    store = PairStore.open(write(tmp_path, shards=1))
    copied: list[str] = []
    monkeypatch.setattr(stores, "numbers_of", lambda *given: copied.append(given[1]) or numbers_of(*given))
    always = drawn(store, Drawing(other_prompts=Constant(1.0)))
    view = always.view([(0, 0), (1, 0)], CPU)
    assert copied == ["win", "lose", "seed"]
    assert len(view.degraded["length"]) == 2


def test_degraded_texts_are_encoded_where_a_step_reads_them(tmp_path: Path) -> None:
    asked: list[str] = []

    class Asked(Lengths):
        def of(self, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
            asked.extend(texts)
            return super().of(texts, device)

    store = PairStore.open(write(tmp_path))
    given = Batches(store, Asked(), 4, 7, RectifiedFlow(), reads_degraded=False)  # type: ignore[arg-type]
    assert given.view([(0, 0)], CPU).degraded == {}
    assert asked == ["a 0"]
