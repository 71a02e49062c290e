"""Every optimizer: its first step by hand, what it keeps, and that it goes on where it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loop import SETTINGS, fit, resumed, same, weights
from torch import nn
from torch.optim import Optimizer

from ddspo.errors import InputError
from ddspo.training import optimizers
from ddspo.training.checkpoints import deep, flat
from ddspo.training.optimizers import Name, build, kept, put_back, state_bytes
from ddspo.training.validation import Validation

NAMES: tuple[Name, ...] = get_args(Name)
RATES: dict[str, float] = {"prodigy": 1.0}
SHAPES = ((64, 64), (2, 3), (96, 48), (5,), (4, 3, 3, 3), (4096,))


def parameters(*, zero: bool = False) -> list[nn.Parameter]:
    """Matrices, a kernel and vectors, some of them large enough for 8 bits; the second zero as a LoRA's B is."""
    drawn = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(shape, generator=drawn)) for shape in SHAPES]
    if zero:
        found[1].data.zero_()
    return found


def steps(optimizer: Optimizer, given: list[nn.Parameter], numbers: range) -> None:
    """Gradients that depend on the number of the update alone."""
    for number in numbers:
        drawn = torch.Generator().manual_seed(100 + number)
        for parameter in given:
            parameter.grad = torch.randn(parameter.shape, generator=drawn)
        optimizer.step()


def tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    return [each for value in state.values() for each in tensors(value)] if isinstance(state, dict) else []


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_where_it_was(name: Name, tmp_path: Path) -> None:
    """Five updates are three, a file, and two by another optimizer, to the bit; tables are in the file for each."""
    rate, whole, cut = RATES.get(name, 1e-2), parameters(zero=True), parameters(zero=True)
    steps(build(name, whole, rate, 0.01), whole, range(5))
    first = build(name, cut, rate, 0.01)
    steps(first, cut, range(3))
    save_file(flat(kept(first)), tmp_path / "state.safetensors")
    second = build(name, cut, rate, 0.01)
    put_back(second, deep(load_file(tmp_path / "state.safetensors")))
    assert same(flat(kept(second)), flat(kept(first)))
    steps(second, cut, range(3, 5))
    assert all(torch.equal(one, other) for one, other in zip(whole, cut, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_resumed_is_one_that_was_not_interrupted(
    name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, optimizer=name, lr=RATES.get(name, 1e-3), warmup=2)
    whole = fit(tmp_path / "whole", settings)
    cut = resumed(tmp_path / "cut", settings, monkeypatch)
    assert same(weights(whole), weights(cut))
    last = "checkpoints/0000006/optimizer.safetensors"
    assert same(load_file(whole.path / last), load_file(cut.path / last))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_keeps_is_counted(name: Name) -> None:
    """Bytes of every storage of its state, each once, are those that are said of parameters without memory."""
    given = parameters()
    optimizer = build(name, given, RATES.get(name, 1e-2), 0.01)
    steps(optimizer, given, range(1))
    storages = {each.untyped_storage().data_ptr(): each.nbytes for each in tensors(kept(optimizer))}
    assert state_bytes(name, [each.to("meta") for each in given]) == sum(storages.values())


def test_less_is_kept_than_adamw_keeps() -> None:
    """Of a square matrix of n numbers: 8n bytes, a quarter of that and 1/32 for scales, half, and twice."""
    matrix, n = [torch.empty(1024, 1024, device="meta")], 2**20
    assert state_bytes("adamw", matrix) == 8 * n + 4
    assert state_bytes("adamw_8bit", matrix) == 2 * n + 2 * 4 * n // 256 + 2 * 1024
    assert state_bytes("muon", matrix) == 4 * n
    assert state_bytes("adafactor", matrix) == 4 * (1024 + 1024 + 1)
    assert state_bytes("prodigy", matrix) == 16 * n


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor", "muon"])
def test_the_first_step_on_a_vector(name: Name) -> None:
    """Each moment is the gradient's own: p (1 - lr decay) - lr sign(g), whatever keeps it; Muon leaves it to AdamW."""
    given = [nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), nn.Parameter(torch.eye(2))]
    optimizer = build(name, given, 0.1, 0.5)
    given[0].grad, given[1].grad = torch.tensor([0.3, 0.2, -0.7]), torch.eye(2)
    optimizer.step()
    assert given[0].tolist() == pytest.approx([0.95 - 0.1, -1.9 - 0.1, 2.85 + 0.1], abs=1e-5)


def test_muons_first_step_on_a_matrix() -> None:
    """g = U S V^T gives about -0.2 sqrt(max(rows, columns)) lr U V^T: of -lr I for a square of 25, whatever S is."""
    given = [nn.Parameter(torch.zeros(25, 25))]
    optimizer = build("muon", given, 0.1, 0.0)
    given[0].grad = torch.diag(torch.linspace(0.5, 2, 25))
    optimizer.step()
    moved = given[0].detach() / -0.1
    assert torch.equal(moved, torch.diag(moved.diag()))
    assert 0.65 < moved.diag().min() < moved.diag().max() < 1.25


def test_prodigys_first_step() -> None:
    """Where it has not moved it knows nothing yet of how far it should: 1e-6 sign(g)."""
    given = [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))]
    optimizer = build("prodigy", given, 1.0, 0.0)
    given[0].grad = torch.tensor([0.3, -0.7], dtype=torch.float64)
    optimizer.step()
    assert (given[0] - torch.tensor([1.0, -2.0])).tolist() == pytest.approx([-1e-6, 1e-6], rel=1e-3)


def test_what_cannot_be_built_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^train.lr 0.0001: prodigy .* set train.lr=1$"):
        optimizers.check("prodigy", 1e-4, "train")
    optimizers.check("prodigy", 1.0, "train")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^pretrain.train.optimizer adamw_8bit: .*`pip install "):
        optimizers.check("adamw_8bit", 1e-4, "pretrain.train")
    monkeypatch.setattr("torch.optim.__all__", [])
    with pytest.raises(InputError, match=r"^train.optimizer muon: .* 2.9 or newer$"):
        optimizers.check("muon", 1e-4, "train")


def test_prodigy_says_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    build("prodigy", parameters(), 1.0, 0.01)
    assert capsys.readouterr().out == ""


def test_what_is_never_reached_is_said() -> None:
    """A warm-up of 8 in 6 updates ends at 3/4; the recipes' own of as many updates as there are is meant."""
    assert replace(SETTINGS, warmup=6).remarks("train") == []
    assert replace(SETTINGS, warmup=8).remarks("train") == [
        "train.warmup 8: longer than the 6 updates: the rate ends at 75% of train.lr"
    ]
    assert Validation(every=7).remarks(6) == ["validation.every 7: never reached in 6 updates"]
    assert Validation(every=6).remarks(6) == []
