"""Compiled blocks: the same numbers within rounding whichever adapter is on, few graphs, and off where it fails."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import history
from test_loop import SETTINGS, fit, weights
from torch import nn

from ddspo.training import compiling
from ddspo.training import fit as loop
from ddspo.training.compiling import as_before, compile_blocks


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Traced and not translated, which takes a compiler and minutes; how many graphs there were."""
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(1)
        return graph.forward

    monkeypatch.setattr(loop, "compile_blocks", lambda network: compile_blocks(network, backend))
    return graphs


@pytest.mark.filterwarnings("ignore")
def test_training_is_the_same_and_compiles_no_more_after_its_beginning(tmp_path: Path, traced: list[int]) -> None:
    """Six updates with the adapter off and on by turns need the graphs of two."""
    plain = fit(tmp_path / "plain", replace(SETTINGS, steps=2))
    assert not traced
    compiled = fit(tmp_path / "two", replace(SETTINGS, steps=2, compile=True))
    needed = len(traced)
    assert needed
    for one, other in zip(history(plain.log), history(compiled.log), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, weights(compiled)[name], rtol=1e-3, atol=1e-5)
    torch._dynamo.reset()
    traced.clear()
    fit(tmp_path / "six", replace(SETTINGS, steps=6, compile=True))
    assert len(traced) == needed


def test_where_it_fails_training_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the attempt stays: the end is to the bit that of a run that did not try."""

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(loop, "compile_blocks", lambda network: compile_blocks(network, broken))
    said: list[str] = []
    monkeypatch.setattr("ddspo.progress.Progress.say", lambda self, line: said.append(line))
    tried = fit(tmp_path / "tried", replace(SETTINGS, steps=2, compile=True))
    plain = fit(tmp_path / "plain", replace(SETTINGS, steps=2))
    assert history(tried.log) == history(plain.log)
    assert any("train.compile: it fails here, and training goes on without: " in line for line in said)


def test_a_network_without_repeated_blocks_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    compile_blocks(network, "eager")
    assert network._compiled_call_impl is not None
    assert network[0]._compiled_call_impl is None
    as_before([network])
    assert network._compiled_call_impl is None
    assert torch._dynamo.config.recompile_limit >= compiling.VARIANTS
